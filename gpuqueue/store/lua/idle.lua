-- idle: a pod that waits for a job asks what it shall do. May be repeated.
-- Context:
--   instance: as it was claimed
--   first: the holder of the first attempt that it has run
--   last: of its latest one
--   leaves?: true: it goes, unless it is given a job
-- Answer: {'waits'} | {'job', record (JSON)}, whose attempt it must claim | {'goes', why}
--! clock records
local first = load(delivery_of(context.first) or '')
local name = first and first.warm_last
local job = name and name ~= context.last and load(delivery_of(name) or '')
if job and job.instance == context.instance then
  return job.state == 'launching' and { 'job', cjson.encode(job) } or { 'goes', 'given up' }
end
if context.leaves then
  redis.call('HDEL', K.warm, context.instance)
  redis.call('ZREM', K.warm_until, context.instance)
  return { 'goes', 'no job came' }
end
if redis.call('HEXISTS', K.warm, context.instance) == 1 then return { 'waits' } end
return { 'goes', 'its share is needed, or nothing starts such a pod any more' }

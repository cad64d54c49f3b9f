-- finish_claim: a finisher takes a job whose executor could not write the result. Its lease keeps
-- other finishers away.
-- Context:
--   delivery: of the job
--   finisher: the name of the claim
--   lease: seconds
--   keep: seconds that the tombstone is kept
--   begins?: it begins a try now, which counts; absent: it only takes or keeps the job
-- Answer: {'ok', record (JSON), message (JSON)} | {'busy'} | {'superseded'} (ended: no result is
--         due) | {'not finishing'}
--! clock counts records line damaged tombstones
local delivery, finisher = context.delivery, context.finisher
local job = load_or_set_aside(delivery)
if not job or job.state ~= 'finishing' then
  redis.call('ZREM', K.finishing, delivery)
  return { 'not finishing' }
end
local free_from = tonumber(redis.call('ZSCORE', K.finishing, delivery)) or 0
if job.finisher and job.finisher ~= finisher and free_from > now then return { 'busy' } end
-- The task sent its retry (or, by task.replace, its successor) before its process died. That
-- delivery continues the job, so no result is due for this one.
local retried = has_successor(job)
local silent = job.outcome == 'RETRIED' or job.outcome == 'IGNORED'
if silent or (retried and job.reason ~= 'CANCELLED') then
  entomb(job, job.outcome == 'IGNORED' and 'IGNORED' or 'RETRIED', context.keep)
  return { 'superseded' }
end
local kept = job.finisher == finisher
job.finisher = finisher
-- Counted before the try, since it may kill its process.
if context.begins then job.finishes = (job.finishes or 0) + 1 end
-- The claim of a finisher's process may be shorter than that of the dispatcher that started it.
local free_at = now + context.lease
if kept then free_at = math.max(free_at, free_from) end
redis.call('ZADD', K.finishing, free_at, delivery)
save(job)
return { 'ok', cjson.encode(job), redis.call('HGET', K.messages, delivery) or '' }

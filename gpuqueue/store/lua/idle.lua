-- idle: a pod that waits for a job asks what it shall do. May be repeated.
-- Context:
--   instance: as it was claimed
--   first: the holder of the first attempt that it has run
--   last: of its latest one
--   leaves?: true: it goes, unless it is given a job
-- Answer: {'waits'} | {'job', record (JSON)}, whose attempt it must claim | {'goes', why}
--! clock records slots domains attempts place holds places bounds warm waiting_pods
local first = load(delivery_of(context.first) or '')
local name = first and first.warm_last
local job = name and name ~= context.last and load(delivery_of(name) or '')
if job and job.instance == context.instance then
  return job.state == 'launching' and { 'job', cjson.encode(job) } or { 'goes', 'given up' }
end
local pod = waiting_pod(context.instance)
local wanted = pod and terms_of(pod.site, pod.application, pod.settings)
-- An older state knows nothing of what pods run by now: until it is compared with that, none waits.
local open = redis.call('HEXISTS', K.gate, 'opened') == 1
if context.leaves or not (wanted and open) then
  forget_waiting(context.instance)
  return { 'goes', context.leaves and 'no job came' or 'nothing starts such a pod any more' }
end
pod.seen = now -- it lives
redis.call('HSET', K.warm, context.instance, cjson.encode(pod))
return { 'waits' }

-- adopt: make a live attempt a holder again after Redis has lost its data.
-- Context:
--   record: of the attempt: delivery, attempt, token, instance, ...
-- Answer: 1 if it is a holder now (also if adopted before), 0 if the job continues without it
--! clock records
local job = context.record
local known = load(job.delivery)
if known then
  local same = known.attempt == job.attempt and known.token == job.token
  return same and redis.call('ZSCORE', K['holders_' .. known.isolation], holder_of(job)) and 1 or 0
end
job.state = 'running'
job.admitted, job.started, job.adopted = job.admitted or now, job.started or now, now
local holder = holder_of(job)
redis.call('ZADD', K['holders_' .. job.isolation], now, holder)
if job.device then redis.call('HSET', K.devices, holder, job.device) end
if job.time_limit then redis.call('ZADD', K.deadlines, job.started + job.time_limit, holder) end
note_newest(job)
save(job)
return 1

-- adopt: a live attempt that Redis does not know (its data was lost) becomes a holder again.
-- ARGV: record (JSON: delivery, attempt, token, instance, ...), now (s)
-- Answer: 1 if it was adopted, 0 if the job is known
--! records
local job, now = cjson.decode(ARGV[1]), tonumber(ARGV[2])
if redis.call('HEXISTS', K.jobs, job.delivery) == 1 then return 0 end
job.state = 'running'
job.admitted, job.started, job.adopted = job.admitted or now, job.started or now, now
local holder = holder_of(job)
redis.call('ZADD', K['holders_' .. job.isolation], now, holder)
if job.device then redis.call('HSET', K.devices, holder, job.device) end
if job.time_limit then redis.call('ZADD', K.deadlines, job.started + job.time_limit, holder) end
if job.delivery ~= job.id then redis.call('HSET', K.latest, job.id, job.delivery) end
save(job)
return 1

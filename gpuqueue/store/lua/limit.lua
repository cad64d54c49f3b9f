-- limit: the executor has read the task's own hard limit, which the message did not carry.
-- ARGV: delivery, attempt, token, seconds
-- Answer: 1 if the attempt is current, else 0
--! records
local job = load(ARGV[1])
if not job or job.state ~= 'running' or job.attempt ~= tonumber(ARGV[2]) or job.token ~= ARGV[3] then return 0 end
job.time_limit = tonumber(ARGV[4])
redis.call('ZADD', K.deadlines, job.started + job.time_limit, holder_of(job))
save(job)
return 1

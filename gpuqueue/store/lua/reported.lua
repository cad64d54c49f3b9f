-- reported: the executor has written everything. The slot stays its holder's until the process is gone, which is stopped at
-- the deadline: a thread that the task left behind may keep it from ending.
-- ARGV: delivery, attempt, token, now (s), keep (s), deadline (s)
-- Answer: 1 if this ended the job, else 0
--! counts records tombstones
local job = load(ARGV[1])
if not job or job.state ~= 'reporting' or job.attempt ~= tonumber(ARGV[2]) or job.token ~= ARGV[3] then return 0 end
redis.call('ZADD', K.deadlines, ARGV[6], holder_of(job))
entomb(job, job.outcome, tonumber(ARGV[4]), tonumber(ARGV[5]))
return 1

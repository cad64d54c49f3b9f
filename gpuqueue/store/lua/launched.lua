-- launched: the launcher has started the attempt; its executor must claim it by the deadline.
-- ARGV: delivery, attempt, instance, now (s), deadline (s)
-- Answer: 1 if this attempt still waits for its executor, else 0
--! records
local job = load(ARGV[1])
if not job or job.state ~= 'launching' or job.attempt ~= tonumber(ARGV[2]) then return 0 end
local holder = holder_of(job)
job.instance = ARGV[3]
job.launched = tonumber(ARGV[4])
redis.call('ZREM', K.launching, holder)
redis.call('ZADD', K.deadlines, ARGV[5], holder)
save(job)
return 1

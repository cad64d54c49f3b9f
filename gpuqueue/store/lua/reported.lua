-- reported: the executor has written everything. The slot stays taken until its process has ended.
-- It is stopped at the deadline, since a thread that the task left behind may keep it alive.
-- Context:
--   delivery, attempt, token: of the attempt
--   keep: seconds that the tombstone is kept
--   within: seconds that its process has to end
-- Answer: 1 if this ended the job, else 0
--! clock counts records tombstones
local job = load(context.delivery)
if not job or job.state ~= 'reporting' then return 0 end
if job.attempt ~= context.attempt or job.token ~= context.token then return 0 end
redis.call('ZADD', K.deadlines, now + context.within, holder_of(job))
entomb(job, job.outcome, context.keep)
return 1

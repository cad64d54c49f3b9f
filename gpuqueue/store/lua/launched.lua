-- launched: the launcher has started the attempt. Its executor must claim it by the deadline.
-- Context:
--   delivery, attempt, token?: of the attempt
--   instance: the process or Job that was started
--   claim_within: seconds that its executor has to claim the attempt
-- Answer: 1 if this attempt still waits for its executor, else 0
--! clock records
local job = load(context.delivery)
if not is_current(job, context) or job.state ~= 'launching' then return 0 end
local holder = holder_of(job)
job.instance = context.instance
job.launched = now
redis.call('ZREM', K.launching, holder)
redis.call('ZADD', K.deadlines, now + context.claim_within, holder)
save(job)
return 1

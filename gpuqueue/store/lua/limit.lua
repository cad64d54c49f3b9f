-- limit: set the hard limit that the task itself declares. The message did not carry it.
-- Context:
--   delivery, attempt, token: of the attempt
--   seconds: from the start of the run
-- Answer: 1 if the attempt is current, else 0
--! clock records
local job = load(context.delivery)
if not job or job.state ~= 'running' then return 0 end
if job.attempt ~= context.attempt or job.token ~= context.token then return 0 end
job.time_limit = context.seconds
redis.call('ZADD', K.deadlines, job.started + job.time_limit, holder_of(job))
save(job)
return 1

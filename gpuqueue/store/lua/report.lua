-- report: the executor claims the finish of its attempt, before it writes any result, callback or chord part.
-- ARGV: delivery, attempt, token, outcome (an end reason), deadline (s) for writing it, what was seen of the GPU (as in sampled)
-- Answer: 'ok' | why not
--! records
local job = load(ARGV[1])
if not job then return 'unknown job' end
if job.attempt ~= tonumber(ARGV[2]) or job.token ~= ARGV[3] then return 'stale token' end
if job.state == 'reporting' then return job.outcome == ARGV[4] and 'ok' or 'reported ' .. job.outcome end
if job.state ~= 'running' then return 'state ' .. job.state end
if job.cancel then return 'cancelled' end
if job.timed_out then return 'out of time' end
job.state, job.outcome = 'reporting', ARGV[4]
note_sample(job, ARGV[6])
redis.call('ZADD', K.deadlines, ARGV[5], holder_of(job)) -- a hook of the task may hang
save(job)
return 'ok'

-- report: the executor claims the finish of its attempt, before it writes any result, callback or
-- part of a chord.
-- Context:
--   delivery, attempt, token: of the attempt
--   outcome: an end reason
--   within: seconds that it has to write everything
--   claimed?: the process as it claimed the attempt, as in loaded
--   sample?: the GPU, as in sampled
--   elsewhere?: true: it has sent its retry to a queue that never leads to this class
--   error?: why the job is delivered again, or cannot run in a larger place: the text for people
-- Answer: 'ok' | why not
--! clock records slots domains attempts
local job, outcome = load(context.delivery), context.outcome
if not job then return 'unknown job' end
if job.attempt ~= context.attempt or job.token ~= context.token then return 'stale token' end
if is_another(job, context.claimed) then return 'claimed by another process' end
if job.state == 'reporting' then
  return job.outcome == outcome and 'ok' or 'reported ' .. job.outcome
end
if job.cancel then return 'cancelled' end
recall(job, context.claimed)
if job.state ~= 'running' then return 'state ' .. job.state end
if job.timed_out then return 'out of time' end
job.state, job.outcome = 'reporting', outcome
job.elsewhere = context.elsewhere and 1 or nil
job.error = context.error or job.error
note_sample(job, context.sample)
-- A deadline, since a hook of the task may hang.
redis.call('ZADD', K.deadlines, now + context.within, holder_of(job))
save(job)
return 'ok'

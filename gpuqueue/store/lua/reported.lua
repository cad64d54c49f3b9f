-- reported: the executor has written everything. The slot stays taken until its process has ended:
-- then a job that is delivered again goes back into line. The process is stopped at the deadline,
-- since a thread that the task left behind may keep it alive.
-- Context:
--   delivery, attempt, token: of the attempt
--   keep: seconds that the tombstone is kept
--   within: seconds that its process has to end
--   outcome?, elsewhere?: as in report
--   failed?: true: Celery could not store the success that was claimed, and has stored a failure
--   claimed?: the process as it claimed the attempt, as in loaded
--   events?: what Celery's monitors are told, as in loaded
-- Answer: 1 if this ended the job, else 0
--! clock counts records slots domains attempts tombstones events
local function write()
  local job = load(context.delivery)
  if not job or job.attempt ~= context.attempt or job.token ~= context.token then return 0 end
  if is_another(job, context.claimed) then return 0 end
  -- Redis has lost the report, which was accepted before anything was written.
  if context.outcome and (job.state == 'launching' or job.state == 'running') then
    recall(job, context.claimed)
    job.state, job.outcome = 'reporting', context.outcome
    job.elsewhere = context.elsewhere and 1 or nil
    redis.call('ZREM', K.stopping, holder_of(job))
  end
  if job.state ~= 'reporting' then return 0 end
  redis.call('ZADD', K.deadlines, now + context.within, holder_of(job))
  if job.outcome == 'REQUEUED' or job.outcome == 'ESCALATED' then
    save(job)
    return 0
  end
  if context.failed and job.outcome == 'SUCCEEDED' then job.outcome = 'ERROR' end
  entomb(job, job.outcome, context.keep)
  return 1
end

local answer = write()
tell(context.events)
return answer

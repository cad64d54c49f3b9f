-- loaded: the executor has loaded the application, so that it works, and the limits of the task are
-- known. The deadline of the run replaces that of the import.
-- Context:
--   delivery, attempt, token: of the attempt
--   seconds?: the hard limit that the task itself declares, from the start of the run; absent: the
--     limit of the message, if it has one
--   if_lost?: what the application wants if the process is lost while the task runs: 'requeue' or
--     'retry'; absent: the job fails
--   earlier?: which result of the task was stored before it began: no result of this attempt
--   claimed?: the process as it claimed the attempt: instance, worker, started, time_limit?,
--     loads_within?, loaded?, if_lost?, earlier?
--   events?: what Celery's monitors are told, as {channel, message}
-- Answer: 1 if the attempt is current, else 0
--! clock records slots domains attempts place events
local function write()
  local job = load(context.delivery)
  if not job or job.attempt ~= context.attempt or job.token ~= context.token then return 0 end
  if is_another(job, context.claimed) then return 0 end
  if context.claimed then recall(job, context.claimed) end
  if job.state ~= 'running' or job.timed_out then return 0 end
  job.time_limit, job.planned_limit = limit_of(job, context.seconds), nil
  job.loading, job.if_lost, job.earlier = nil, context.if_lost, context.earlier
  for _, name in ipairs(job.places or {}) do
    if place_kind(name) == 'application' then succeed_at(name, holder_of(job)) end
  end
  if job.time_limit then
    redis.call('ZADD', K.deadlines, job.started + job.time_limit, holder_of(job))
  else
    redis.call('ZREM', K.deadlines, holder_of(job))
  end
  domain.plan(job)
  save(job)
  return 1
end

local answer = write()
tell(context.events)
return answer

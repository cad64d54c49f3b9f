-- release: an attempt's process has ended, or never started. Free its slot, decide how a job
-- without a report continues, and start every job that can start. May be repeated.
-- Context:
--   delivery, attempt: of the attempt
--   instance?: the process or Job that ended; absent: none was observed
--   ended: what the end means if the executor did not report: `reason`, `error`, `avoid` (the node
--     at fault, or ''), `evidence` (fields of the record), and `tried`, when a new attempt follows:
--     'always', 'unstarted' (only if this attempt was never claimed) or 'never'
--   max_attempts: how many attempts a job gets
--   spec, nonce, by, most: see admit
-- Answer: {freed (0|1), state of the job ('' if unknown), then the answer of admit...}
--! clock counts records line attempts admission
local delivery, attempt, ended = context.delivery, context.attempt, context.ended
local instance = context.instance or ''
local job = load(delivery)
local holder = holder_name(delivery, attempt)
local current = job and job.attempt == attempt
-- Another process claimed this attempt. The one that ended, or failed to start, was a duplicate
-- that a repair had started.
if current and job.instance and not same_instance(job.instance, instance) then
  return { 0, job.state }
end
if current and job.doomed and job.state == 'launching' then
  ended.reason, ended.error, ended.tried = job.doomed, job.doom_error, job.doom_tried
end

local function due_again()
  if attempt >= context.max_attempts then return false end
  if redis.call('HEXISTS', K.messages, delivery) == 0 then return false end
  if has_successor(job) then return false end
  if job.state == 'launching' then return ended.tried ~= 'never' end
  return job.state == 'running' and ended.tried == 'always'
end

local freed = redis.call('ZREM', K.holders_shared, holder)
  + redis.call('ZREM', K.holders_exclusive, holder)
redis.call('HDEL', K.devices, holder)
redis.call('ZREM', K.launching, holder)
redis.call('ZREM', K.deadlines, holder)
redis.call('ZREM', K.stopping, holder)

if current and freed == 1 then
  note_seconds('held', job, now - job.admitted)
  for field, value in pairs(ended.evidence) do job[field] = value end
  job.wait, job.detail = nil, nil
end
local state = current and job.state
if state == 'ended' and freed == 1 then
  job.released = now
  save(job)
elseif state == 'launching' or state == 'running' or state == 'reporting' then
  job.released = now
  if job.cancel and state ~= 'reporting' then
    hand_to_finish(job, 'CANCELLED')
  elseif job.timed_out == 'run' and state == 'running' then
    hand_to_finish(job, 'TIME_LIMIT')
  elseif due_again() then
    count('repeated', job, ended.reason)
    forget_attempt(job)
    job.error = ended.error
    if ended.avoid ~= '' then keep_away(job, ended.avoid) end
    -- The pause before the next attempt: 1, 2, 4, ... 60 s.
    job.state, job.eta = 'delayed', now + math.min(60, 2 ^ (attempt - 1))
    redis.call('ZADD', K.delayed, job.eta, delivery)
    if job.expires then redis.call('ZADD', K.expiring, job.expires, delivery) end
    save(job)
  else
    job.error = ended.error
    -- Never claimed in all its attempts: the job's own code never ran, so it cannot be at fault,
    -- with any status of the last process.
    local unstarted = ended.tried == 'unstarted' and ended.reason == 'ERROR'
    -- Stopped since it was not claimed in time: the way its pod ended is a consequence.
    local late = job.timed_out == 'start'
    local reason = state == 'launching' and (unstarted or late) and 'INFRA' or ended.reason
    hand_to_finish(job, reason)
  end
end
local answer = admit(context)
table.insert(answer, 1, freed)
table.insert(answer, 2, job and job.state or '')
return answer

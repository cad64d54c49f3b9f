-- The release of an attempt: its slot, what its end means, and what becomes of its job. Needs
-- clock, counts, records, line, damaged, attempts, place, places.

local WAIT_OF = { application = 'APPLICATION_HELD', host = 'HOST_SET_ASIDE' }
-- Seconds before its next probe at which the job that failed in an application is back in line.
local EARLY = 0.5

-- The attempt that an instance ran last, if the named one was its first (see next); else the named
-- one. Answer: delivery, attempt.
local function last_of(asked)
  local first = load(asked.delivery)
  local mine = first and first.attempt == asked.attempt and first.warm_last and first.instance
  if mine and asked.instance and same_instance(mine, asked.instance) then
    local delivery, attempt = delivery_of(first.warm_last), attempt_of(first.warm_last)
    if delivery then return delivery, attempt end
  end
  return asked.delivery, asked.attempt, asked.token
end

-- Whether a job gets another attempt after one with this end.
local function due_again(job, ended, max_attempts)
  if job.attempt - (job.spared or 0) >= max_attempts then return false end
  if redis.call('HEXISTS', K.messages, job.delivery) == 0 then return false end
  if has_successor(job) then return false end
  if job.state == 'launching' then return ended.tried ~= 'never' end
  return job.state == 'running' and ended.tried == 'always'
end

-- The place that the end blames, and how many jobs must fail there to prove it.
local function blamed(job, ended)
  local where = {}
  for _, name in ipairs(job.places or {}) do where[place_kind(name)] = name end
  if ended.blames == 'node' then return 'node:' .. ended.avoid, 2 end
  if job.state == 'launching' then
    if ended.blames == 'application' then return where.application, 1 end
    local start = ended.blames == 'start' and (where.host or where.application)
    return start or ended.blames == 'host' and where.host, 2
  end
  -- A process that goes on has loaded it: earlier jobs may have left what ends the process.
  local application = not job.warm_most and where.application
  if ended.blames == 'application' then
    -- The code of a task may end with the same status.
    return (job.load_error or job.loading) and application, 1
  end
  local loading = job.loading and ended.blames == 'start' or job.timed_out == 'load'
  return loading and application or ended.blames == 'device' and where.device, 2
end

-- Note the failure where it happened. Answer: until when the job must not be tried again (0: it
-- may), and the wait and its detail meanwhile.
local function blame(job, ended)
  local place, enough = blamed(job, ended)
  if not place then return 0 end
  local kind = place_kind(place)
  if kind == 'device' then keep_away(job, place) end
  local late = job.timed_out == 'load'
    and 'the application was not loaded in time (GPUQUEUE_LOAD_TIMEOUT)'
  local error = job.load_error or late or ended.error
  local entry, spared = fail_at(place, job, holder_of(job), error, enough)
  if not entry then return 0 end
  job.spared = (job.spared or 0) + spared
  -- The line of an application keeps its order. Another job is the next probe of a host, since
  -- this one may be at fault.
  local not_before = kind == 'application' and entry['until'] - EARLY
    or kind == 'host' and entry['until'] + 4 * entry.pause
    or 0
  return not_before, WAIT_OF[kind], entry.error
end

-- What becomes of a job whose executor did not confirm its end.
local function settle(job, ended, max_attempts, not_before, waits, why)
  local state = job.state
  job.released = now
  if job.cancel and state ~= 'reporting' then
    hand_to_finish(job, 'CANCELLED')
  elseif job.timed_out == 'run' then
    hand_to_finish(job, 'TIME_LIMIT')
  elseif due_again(job, ended, max_attempts) then
    count('repeated', job, ended.reason)
    forget_attempt(job)
    job.error, job.wait, job.detail = ended.error, waits, why
    if ended.avoid ~= '' then keep_away(job, ended.avoid) end
    -- The pause before the next attempt: 1, 2, 4, ... 60 s.
    local pause = now + math.min(60, 2 ^ (job.attempt - 1))
    -- Once its place is set aside, the pause of the place counts.
    job.state, job.eta = 'delayed', not_before > 0 and not_before or pause
    redis.call('ZADD', K.delayed, job.eta, job.delivery)
    if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
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

-- Release an attempt. `asked`: delivery, attempt, token, instance, ended and max_attempts of
-- release. Answer: whether a slot was freed (0|1), the job, the holder, and whether the end was of
-- another process or an earlier attempt than those of the record.
local function release(asked)
  local delivery, attempt, token = last_of(asked)
  local ended, instance = asked.ended, asked.instance or ''
  local job = load_or_set_aside(delivery)
  local holder = holder_name(delivery, attempt)
  local current = is_current(job, { attempt = attempt, token = token })
  -- The attempt has ended that had this number before Redis came back with an older state. The slot
  -- belongs to the one that has the number now.
  if job and job.attempt == attempt and not current then return 0, job, holder, true end
  -- Another process claimed this attempt. The one that ended, or failed to start, was a duplicate
  -- that a repair had started.
  if current and job.instance and not same_instance(job.instance, instance) then
    return 0, job, holder, true
  end
  if current and job.doomed then
    ended.reason, ended.error, ended.tried = job.doomed, job.doom_error, job.doom_tried
  elseif current and job.timed_out == 'load' then
    -- Stopped in the import: the code of its task never ran.
    ended.reason, ended.tried = 'INFRA', 'always'
  elseif current and job.loading and job.state == 'running' and ended.reason == 'ERROR' then
    -- It died in the import: the same.
    ended.reason, ended.tried = 'INFRA', 'always'
  end

  -- A container job needs no executor to begin. Redis has lost its claim.
  local began = job and job.container and ended.evidence.container_started
  if current and began and job.state == 'launching' and not (job.doomed or job.timed_out) then
    job.state = 'running'
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
  if current and freed == 1 and (job.outcome or job.reason) == 'SUCCEEDED' then
    for _, name in ipairs(job.places or {}) do succeed_at(name, holder) end
    if job.node then succeed_at('node:' .. job.node, holder) end
  end
  local not_before, waits, why = 0, nil, nil
  local ended_by = job and (job.cancel or job.timed_out == 'run')
  if freed == 1 and (state == 'launching' or state == 'running') and not ended_by then
    not_before, waits, why = blame(job, ended)
  end
  if state == 'ended' and freed == 1 then
    job.released, job.places, job.probes = now, nil, nil
    save(job)
  elseif state == 'launching' or state == 'running' or state == 'reporting' then
    settle(job, ended, asked.max_attempts, not_before, waits, why)
  end
  return freed, job, holder, false
end

-- The release of an attempt: its slot, what its end means, and what becomes of its job. Needs
-- clock, counts, records, slots, tenants, line, damaged, attempts, place, holds, places, held,
-- waiting_pods, accounting, escalation, task_memory.

-- DISRUPTIONS, and OF_NODES in domains, come from model/reasons.py.
local WAIT_OF = {
  application = 'APPLICATION_HELD',
  host = 'HOST_SET_ASIDE',
  node = OF_NODES.aside,
}
-- How many disruptions a job survives whose dispatcher is older and names no limit.
local MOST_DISRUPTIONS = 50
-- Seconds before its next probe at which the job that failed in an application is back in line.
local EARLY = 0.5

-- The attempt that an instance ran last, if the named one was its first (see next); else the named
-- one. Answer: delivery, attempt; of the named one also its token, and its record, if it is sound.
local function last_of(asked)
  local first = load(asked.delivery)
  local mine = first and first.attempt == asked.attempt and first.warm_last and first.instance
  if mine and asked.instance and same_instance(mine, asked.instance) then
    local delivery, attempt = delivery_of(first.warm_last), attempt_of(first.warm_last)
    if delivery then return delivery, attempt end
  end
  return asked.delivery, asked.attempt, asked.token, first
end

-- Whether a job gets another attempt after one with this end. `most`: max_attempts and
-- max_disruptions of release.
local function due_again(job, ended, most)
  if DISRUPTIONS[ended.reason] then
    if (job.disruptions or 0) >= most.max_disruptions then return false end
  elseif job.attempt - (job.spared or 0) >= most.max_attempts then
    return false
  end
  if redis.call('HEXISTS', K.messages, job.delivery) == 0 then return false end
  if has_successor(job) then return false end
  if job.state == 'launching' then return ended.tried ~= 'never' end
  return job.state == 'running' and ended.tried == 'always'
end

-- Which of several GPUs is at fault is not known: none is, but one that the attempt tries.
local function tried_device(job)
  for _, name in ipairs(job.probes or {}) do
    if place_kind(name) == 'device' then return name end
  end
  return nil
end

-- The place that the end blames, and how many jobs must fail there to prove it.
local function blamed(job, ended)
  local where = {}
  for _, name in ipairs(job.places or {}) do where[place_kind(name)] = name end
  if job.all_devices then where.device = tried_device(job) end
  if ended.blames == 'node' then return 'node:' .. ended.avoid, 2 end
  if ended.blames == 'rejection' then return 'node:' .. ended.avoid, 1 end
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

-- Whether a pod was withdrawn that has found no room while others may: it was kept away from nodes
-- that are set aside, and one may be tried by now; it tried one; or it could run on one alone.
local function is_recalled(job)
  return job.doomed == OF_NODES.no_room and (job.away_until or job.near or job.domain)
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
  local costs = (DISRUPTIONS[ended.reason] or is_recalled(job)) and 0 or 1
  local entry, spared = fail_at(place, job, holder_of(job), error, enough, costs)
  if not entry then return 0 end
  job.spared = (job.spared or 0) + spared
  -- The line of an application keeps its order. Another job is the next probe of a host, since
  -- this one may be at fault.
  local not_before = kind == 'application' and entry['until'] - EARLY
    or kind == 'host' and entry['until'] + 4 * entry.pause
    or 0
  return not_before, WAIT_OF[kind], entry.error
end

-- Put a job aside until its next attempt. `error`: of this one.
local function try_again(job, avoid, eta, error, waits, why)
  forget_attempt(job)
  if avoid ~= '' then keep_away(job, avoid) end
  job.outcome, job.error, job.wait, job.detail = nil, error, waits, why
  job.state, job.eta = 'delayed', eta
  redis.call('ZADD', K.delayed, job.eta, job.delivery)
  tenancy.aside(job)
  if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
  save(job)
end

-- The pause before an attempt after so many others: 1, 2, 4, ... 60 s, or up to `longest`.
local function pause_after(attempts, longest)
  return math.min(longest or 60, 2 ^ (attempts - 1))
end

-- Seconds: the longest pause after an attempt that was never claimed. No code of the job has run.
local LONGEST_UNSTARTED = 300

-- The pause after an attempt that has failed. Disruptions count apart.
local function pause_of(job, ended)
  if DISRUPTIONS[ended.reason] then return pause_after(job.disruptions) end
  local failed = job.attempt - (job.disruptions or 0) - (job.recalled or 0)
  return pause_after(failed, job.state == 'launching' and LONGEST_UNSTARTED or nil)
end


-- Back to its first place in line. The attempt costs nothing.
local function recall_attempt(job)
  forget_attempt(job)
  job.spared, job.recalled = (job.spared or 0) + 1, (job.recalled or 0) + 1
  job.outcome, job.eta = nil, nil
  enter_line(job)
end

-- Whether a worker of Celery would put the message back: its task has rejected it, or its process
-- is lost, and the application wants that. A job is lost as often as it gets attempts.
local function goes_back(job, ended, max_attempts)
  if redis.call('HEXISTS', K.messages, job.delivery) == 0 then return false end
  if job.state == 'reporting' then return job.outcome == 'REQUEUED' end
  if job.if_lost ~= 'requeue' or not ended.lost then return false end
  return (job.losses or 0) + 1 < max_attempts and not has_successor(job)
end

-- Put the message back. A worker of Celery would take it next: the job has its first place in line
-- again. A loop of that is slowed down, and costs none of the attempts for other reasons.
local function requeue(job, ended)
  if redis.call('HGET', K.revoked, job.id) then -- as a message that arrives
    job.outcome = nil
    hand_to_finish(job, 'CANCELLED')
    return
  end
  local rejected = job.state == 'reporting'
  local what = rejected and 'requeues' or 'losses'
  job[what], job.spared = (job[what] or 0) + 1, (job.spared or 0) + 1
  local error = rejected and job.error or ended.error
  try_again(job, ended.avoid, now + pause_after(job[what]), error, 'REQUEUED')
end

-- How often the first job in line tries a hold. After that it lets another one try every second
-- time, since it may be at fault itself.
local TRIES_IN_ORDER = 4

-- Put a job back into line, where it was.
local function back_in_line(job, error, waits, why)
  forget_attempt(job)
  job.outcome, job.error = nil, error
  take_place(job)
  job.wait, job.detail = waits, why
  if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
  save(job)
end

-- The cluster would refuse more than this job: it waits, and nothing of it is used up. One that is
-- refused again although others were not is at fault itself, unless another job proves the
-- opposite. Answer: whether it waits, or has waited for too long.
local function wait_for_hold(job, ended, asked, most)
  local kind, spec, holder = ended.blames, asked.spec or {}, holder_of(job)
  local name = kind == 'image' and hold_of_image(spec, job) or hold_of_class(kind)
  if spec.host or kind == 'image' and not hold_of_image(spec, job) then return false end
  local before = place_entry(name)
  local tried = before and before.probe == holder
  local own = (kind == 'launch' or kind == 'pods') and job.refused == kind
  local entry, spared = fail_at(name, job, holder, ended.error, own and 2 or 1, 1)
  job.refused, job.held = kind, job.held or in_line_since(job)
  if not entry then return false end
  job.spared = (job.spared or 0) + spared
  if not due_again(job, ended, most) then return false end
  job.released, job.recalled = now, (job.recalled or 0) + 1
  if ended.avoid ~= '' then keep_away(job, ended.avoid) end -- its node may be at fault alone
  local met = entry.jobs[job.id]
  if outlasts(job, entry, spec) then
    job.error = ended.error
    end_held(job, name, spec)
  elseif kind == 'image' then
    local back = math.min(entry['until'] - EARLY, waits_until(job, entry, spec))
    try_again(job, '', math.max(now, back), ended.error, HOLD_WAITS[kind], entry.error)
  elseif tried and (met and met[2] or entry.failures) > TRIES_IN_ORDER then
    try_again(job, '', entry['until'] + 1, ended.error, HOLD_WAITS[kind], entry.error)
  else
    back_in_line(job, ended.error, HOLD_WAITS[kind], entry.error)
  end
  -- A pod that waits for a job may have the share that is missing.
  if kind == 'quota' then
    for _, each in ipairs(redis.call('ZRANGE', K.warm_until, 0, 0)) do ring(each) end
  end
  return true
end

-- What becomes of a job whose executor did not confirm its end.
local function settle(job, ended, most, not_before, waits, why)
  local state = job.state
  job.released = now
  if job.cancel and state ~= 'reporting' then
    hand_to_finish(job, 'CANCELLED')
  elseif job.timed_out == 'run' then
    hand_to_finish(job, 'TIME_LIMIT')
  elseif is_recalled(job) and redis.call('HEXISTS', K.messages, job.delivery) == 1 then
    recall_attempt(job)
  elseif escalation.is_due(job, ended) then
    escalation.escalate(job, ended)
  elseif goes_back(job, ended, most.max_attempts) then
    requeue(job, ended)
  elseif due_again(job, ended, most) then
    count('repeated', job, ended.reason)
    if DISRUPTIONS[ended.reason] then
      job.disruptions, job.spared = (job.disruptions or 0) + 1, (job.spared or 0) + 1
    end
    -- Once its place is set aside, the pause of the place counts.
    local pause = now + pause_of(job, ended)
    local eta = not_before > 0 and not_before or pause
    try_again(job, ended.avoid, eta, ended.error, waits, why)
  else
    job.error = ended.error
    -- Never claimed in all its attempts: the job's own code never ran, so it cannot be at fault,
    -- with any status of the last process.
    local unstarted = ended.tried == 'unstarted' and ended.reason == 'ERROR'
    -- Stopped since it was not claimed in time: the way its pod ended is a consequence.
    local late = job.timed_out == 'start'
    late = late and not DISRUPTIONS[ended.reason]
    local reason = state == 'launching' and (unstarted or late) and 'INFRA' or ended.reason
    hand_to_finish(job, reason)
  end
end

-- What becomes of a job whose attempt has ended. `state`: of the job, if the attempt is its current
-- one; `freed`: whether the attempt had its slot until now (0|1).
local function conclude(job, ended, asked, state, freed)
  local not_before, waits, why = 0, nil, nil
  local ended_by = job and (job.cancel or job.timed_out == 'run')
  local held = freed == 1 and state == 'launching' and not ended_by and HOLD_STAGES[ended.blames]
  local most = { max_attempts = asked.max_attempts }
  most.max_disruptions = asked.max_disruptions or MOST_DISRUPTIONS
  if freed == 1 and not (held or asked.spec and asked.spec.host) then make_holds_due() end
  if held and wait_for_hold(job, ended, asked, most) then return end
  if freed == 1 and (state == 'launching' or state == 'running') and not (ended_by or held) then
    not_before, waits, why = blame(job, ended)
  end
  if state == 'ended' and freed == 1 then
    job.released, job.places, job.probes = now, nil, nil
    save(job)
  elseif state == 'launching' or state == 'running' or state == 'reporting' then
    settle(job, ended, most, not_before, waits, why)
  end
end

-- Release an attempt. `asked`: delivery, attempt, token, instance, ended, max_attempts and
-- max_disruptions of release. `stopped`: when it had ended, if that is known. Answer: whether a
-- slot was freed (0|1), the job, the holder, and whether the end was of another process or an
-- earlier attempt than those of the record.
local function release(asked, stopped)
  local delivery, attempt, token, job = last_of(asked)
  local ended, instance = asked.ended, asked.instance or ''
  job = job or load_or_set_aside(delivery)
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
  -- What a lost node has kept an attempt waiting for is no fault of the job.
  if current and job.doomed and ended.reason ~= OF_NODES.lost then
    ended.reason, ended.error, ended.tried = job.doomed, job.doom_error, job.doom_tried
    ended.blames = job.doom_blames or ended.blames
    ended.avoid = job.doom_avoid or ended.avoid
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

  local since, isolation = accounting.held_since(holder, job)
  -- Redis may have stopped an earlier call after it had freed the slot: this one does the rest.
  local entry = not since and accounting.open_entry(holder) or nil
  if current then
    for field, value in pairs(ended.evidence) do job[field] = value end
    job.wait, job.detail = nil, nil
  end
  if since then
    local number = slots.of_job(current and job)
    entry = accounting.entry_of(job, current, holder, number, since, isolation, stopped)
  end
  local freed = entry and 1 or 0

  if since then accounting.leave(holder, isolation) end
  local done, problem = pcall(function()
    if since then
      local number = accounting.leave_further(holder, isolation, current and job)
      entry.gpus = number > 1 and number or nil
      if current then note_seconds('held', job, now - job.admitted) end
    end
    local number = entry and (entry.gpus or 1)
    if entry then tenancy.ended(holder, number) end
    redis.call('HDEL', K.devices, holder)
    if not current or job.domain then domain.give_place_back(domain.leave(holder, number)) end
    redis.call('ZREM', K.launching, holder)
    redis.call('ZREM', K.deadlines, holder)
    redis.call('ZREM', K.stopping, holder)
    local state = current and job.state
    if current and freed == 1 and (job.outcome or job.reason) == 'SUCCEEDED' then
      for _, name in ipairs(job.places or {}) do succeed_at(name, holder) end
      if job.node then succeed_at('node:' .. job.node, holder, job.admitted) end
    end
    conclude(job, ended, asked, state, freed)
    if entry then
      local reason, counted = accounting.outcome_of(job, current, state, ended)
      if counted then pcall(task_memory.note, entry, job.memory) end
      if not since then accounting.close(holder) end
      accounting.account(entry, reason, counted)
    end
  end)
  if not done then
    if entry then accounting.keep_open(holder, entry) end
    error(problem, 0)
  end
  return freed, job, holder, false
end

-- adopt: make a live attempt a holder again: Redis has lost its job, or the grant of its slot. The
-- attempt from which its process has gone on gives its slot up.
-- Context:
--   record: of the attempt: delivery, attempt, token, instance, ...
--   slots?: how many its isolation has
--   instead_of?: the token of an earlier attempt that has ended, though it holds a slot
-- Answer: 1 if it is a holder now (also if adopted before), 0 if the job continues without it
--! clock counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts place holds
--! places held bounds warm waiting_pods accounting escalation task_memory release
local found = context.record
-- The instance of a pod is NAMESPACE/JOB/UID.
local is_pod = found.instance and string.find(found.instance, '/', 1, true)
local known = load(found.delivery)
local own = 'holders_' .. found.isolation
local number = slots.of_job(found)
local other = found.isolation == 'shared' and 'holders_exclusive' or 'holders_shared'

-- An older state does not know this attempt yet. Numbers only grow, so it has granted fewer.
local function is_older()
  if (known.attempt or 0) >= found.attempt then return false end
  local in_line = { accepted = true, delayed = true, waiting = true }
  local holding = { launching = true, running = true, reporting = true }
  return in_line[known.state] or holding[known.state] and known.token == context.instead_of
end

-- The job will run again, so no slot is overbooked for what has run beside the holders.
local function has_room()
  local name = found.domain or found.device and tostring(found.device) or found.node
  if name and redis.call('HEXISTS', K.domains, name) == 1 then
    local free = redis.call('ZSCORE', domain.key(found.isolation), name)
    return tonumber(free or 0) >= number
  end
  if redis.call('ZCARD', K[other]) > 0 then return false end
  if context.slots and slots.used(found.isolation) + number > context.slots then return false end
  -- The runner of a pod may call this: its user may not read devices, and its attempt has none.
  local listed = found.device and found.isolation == 'exclusive'
  local devices, own_ones = listed and redis.call('HVALS', K.devices) or {}, {}
  for _, index in ipairs(slots.devices_of(found)) do own_ones[index] = true end
  for _, index in ipairs(devices) do
    if own_ones[tonumber(index)] then return false end
  end
  return true
end

-- An older state has the attempt before the one that runs. Its end is not known.
local function free(job)
  local holder = holder_of(job)
  local since, isolation = accounting.held_since(holder, job)
  local held
  if since then
    accounting.leave(holder, isolation)
    held = accounting.leave_further(holder, isolation, job)
    local entry = accounting.entry_of(job, true, holder, held, since, isolation, found.admitted)
    accounting.account(entry, 'INFRA', false)
  end
  redis.call('ZREM', K.launching, holder)
  redis.call('ZREM', K.deadlines, holder)
  redis.call('ZREM', K.stopping, holder)
  redis.call('HDEL', K.devices, holder)
  domain.leave(holder)
  tenancy.ended(holder, held)
end

-- The process has gone on from another attempt, which holds its slot in an older state. What that
-- one reported is lost, as if its process had ended with exit code 0: its stored result counts.
-- Answer: that attempt; nil: there is none.
local function leave_earlier()
  -- Most pods run one attempt, and their class may have thousands of holders.
  if not found.instance or is_pod and not found.warm_of then return nil end
  for _, holder in ipairs(redis.call('ZRANGE', K[own], 0, -1)) do
    local previous = load(delivery_of(holder) or '')
    local its = previous and previous.delivery ~= found.delivery and holder_of(previous) == holder
    if its and previous.instance and same_instance(previous.instance, found.instance) then
      -- It had claimed, and reported in time: what was decided since then is void.
      if previous.state == 'launching' then
        previous.state, previous.started = 'running', previous.launched or previous.admitted
      end
      previous.loading, previous.timed_out, previous.doomed = nil, nil, nil
      save(previous)
      local error = 'its process has gone on, and Redis has lost its report'
      local ended = { reason = 'ERROR', error = error, avoid = '', blames = '', tried = 'never' }
      ended.evidence = { exit_code = 0 }
      release({
        delivery = previous.delivery,
        attempt = previous.attempt,
        token = previous.token,
        instance = previous.instance,
        max_attempts = 0,
        ended = ended,
      }, found.admitted)
      return load(previous.delivery)
    end
  end
  return nil
end

local job, previous = found
if known and known.token == found.token then
  return redis.call('ZSCORE', K[own], holder_of(found)) and 1 or 0
elseif known then
  if not is_older() then return 0 end
  previous = leave_earlier()
  if known.token then
    free(known) -- its slot passes on
  elseif not has_room() then
    return 0
  end
  leave_line(known)
  job = known
  job.attempt, job.owner = found.attempt, found.owner
  for _, field in ipairs(OF_ATTEMPT) do job[field] = found[field] end
else
  previous = leave_earlier()
end
if previous then -- as next has written it, for the end of the process
  follow(job, previous, not is_pod)
  name_last(job, previous, first_of(job))
end
if found.instance then forget_waiting(found.instance) end
job.state = 'running'
job.admitted, job.started, job.adopted = found.admitted or now, found.started or now, now
local holder = holder_of(job)
redis.call('ZADD', K[own], now, holder)
slots.enter(holder, number)
domain.widen(slots.in_use())
tenancy.started(job)
slots.hold_devices(holder, slots.devices_of(job))
if job.time_limit then redis.call('ZADD', K.deadlines, job.started + job.time_limit, holder) end
note_newest(job)
save(job)
return 1

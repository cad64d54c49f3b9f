-- Admission: slots, soft exclusivity and bounded bypass, for one domain (the whole class). Needs
-- clock, counts, records, line, attempts.
--
-- Fields of the gate:
--   bypassed: shared jobs that started ahead of the waiting exclusive jobs, since an exclusive job
--     last started or the first of them came into line;
--   row: exclusive jobs that started in a row while shared jobs waited;
--   opened: since when the holders are known to be what really runs (see open).
-- A shared start clears row, an exclusive start clears bypassed, and bypassed > 0 needs a shared
-- start. So a closed gate (bypassed >= exclusive_patience >= 1) and a full row (row >=
-- shared_patience >= 1) never meet: in an idle domain, one isolation can always start.

local function head(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- Everything that a decision depends on.
local function look(spec)
  local gate = redis.call('HMGET', K.gate, DOMAIN .. 'bypassed', DOMAIN .. 'row', 'opened')
  local v = {
    opened = gate[3],
    shared_running = redis.call('ZCARD', K.holders_shared),
    exclusive_running = redis.call('ZCARD', K.holders_exclusive),
    bypassed = tonumber(gate[1] or 0),
    row = tonumber(gate[2] or 0),
  }
  -- A job whose isolation has no slots (any more) must not hold up the other isolation.
  if spec.shared_slots > 0 then v.shared, v.shared_rank = head(K.waiting_shared) end
  if spec.exclusive_slots > 0 then v.exclusive, v.exclusive_rank = head(K.waiting_exclusive) end
  return v
end

-- Why no job of this isolation can start now; nil: one can.
local function blocked(v, spec, isolation)
  if not v.opened then return 'REPAIRING' end
  if isolation == 'shared' then
    if v.exclusive_running > 0 then return 'EXCLUSIVE_RUNNING' end
    local closed = v.exclusive and v.bypassed >= spec.exclusive_patience
    if closed then return 'DRAINING_FOR_EXCLUSIVE' end
    if v.shared_running >= spec.shared_slots then return 'NO_FREE_SLOT' end
  else
    if v.shared_running > 0 then return 'SHARED_RUNNING' end
    if v.exclusive_running >= spec.exclusive_slots then return 'NO_FREE_SLOT' end
    if v.shared and v.row >= spec.shared_patience then return 'TURN_OF_SHARED' end
  end
  return nil
end

local function decide(v, spec)
  local shared = v.shared and not blocked(v, spec, 'shared')
  local exclusive = v.exclusive and not blocked(v, spec, 'exclusive')
  if shared and exclusive then
    return v.shared_rank < v.exclusive_rank and 'shared' or 'exclusive'
  end
  return shared and 'shared' or exclusive and 'exclusive' or nil
end

-- An exclusive job gets an idle GPU, a shared job the GPU with the fewest jobs.
local function pick_device(spec)
  local jobs, best = {}, 0
  for i = 0, spec.devices - 1 do jobs[i] = 0 end
  for _, index in ipairs(redis.call('HVALS', K.devices)) do
    index = tonumber(index)
    if jobs[index] then jobs[index] = jobs[index] + 1 end
  end
  for i = 1, spec.devices - 1 do
    if jobs[i] < jobs[best] then best = i end
  end
  return best
end

local function count_start(v, isolation)
  if isolation == 'exclusive' then
    local row = v.shared and v.row + 1 or 0
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', 0, DOMAIN .. 'row', row)
  else
    local overtakes = v.exclusive
      and (
        v.shared_rank > v.exclusive_rank
        or arrival_of(v.shared_rank) > arrival_of(v.exclusive_rank)
      )
    local bypassed = v.exclusive and (overtakes and v.bypassed + 1 or v.bypassed) or 0
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', bypassed, DOMAIN .. 'row', 0)
  end
end

-- Make the job a holder: its attempt gets a number, a token and a device.
local function grant(job, ask)
  local spec = ask.spec
  note_seconds('wait', job, now - in_line_since(job))
  forget_attempt(job)
  job.attempt = (job.attempt or 0) + 1
  job.state = 'launching'
  job.admitted = now
  job.by = ask.by
  local holder = holder_of(job)
  job.token = redis.sha1hex(ask.nonce .. holder)
  job.owner = spec.owner
  if spec.devices > 0 then
    job.device = pick_device(spec)
    redis.call('HSET', K.devices, holder, job.device)
  end
  redis.call('ZADD', K['holders_' .. job.isolation], now, holder)
  redis.call('ZADD', K.launching, now, holder)
  save(job)
  return cjson.encode(job)
end

-- Start every job that can start. Each job that is looked at uses up the budget: one that starts,
-- one that has expired, and a leftover. `ask`: the context of admit. Answer: {whether the budget
-- was used up (0|1), granted record (JSON)...}
local function admit(ask)
  local spec, granted, spent = ask.spec, { 0 }, 0
  while true do
    local v = look(spec)
    local isolation = decide(v, spec)
    if not isolation then break end
    if spent >= ask.most then
      granted[1] = 1
      break
    end
    local job, weight = load(v[isolation])
    spent = spent + weight
    if not job or job.state ~= 'waiting' then
      -- A leftover: no job waits under this name.
      redis.call('ZREM', K['waiting_' .. isolation], v[isolation])
    elseif job.expires and job.expires <= now then
      leave_line(job)
      hand_to_finish(job, 'EXPIRED')
    else
      count_start(v, isolation)
      leave_line(job)
      granted[#granted + 1] = grant(job, ask)
    end
  end
  return granted
end

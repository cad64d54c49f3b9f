-- Who may start: slots, soft exclusivity and bounded bypass, for one domain (the whole class). Needs counts, records,
-- line, attempts.
--
-- gate fields: bypassed = shared jobs started ahead of the waiting exclusive ones since an exclusive last started, or the
--              first of them came into line;
--              row = exclusive jobs started in a row while shared ones waited;
--              opened = since when the holders are known to be what really runs (open.lua).
-- A shared start clears row, an exclusive start clears bypassed, and bypassed > 0 needs a shared start: so a closed
-- gate (bypassed >= exclusive_patience >= 1) and a full row (row >= shared_patience >= 1) never meet, and somebody can
-- always start in an idle domain.

local function head(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- Everything that a decision looks at.
local function look(spec)
  local gate = redis.call('HMGET', K.gate, DOMAIN .. 'bypassed', DOMAIN .. 'row', 'opened')
  local v = {
    opened = gate[3],
    shared_running = redis.call('ZCARD', K.holders_shared),
    exclusive_running = redis.call('ZCARD', K.holders_exclusive),
    bypassed = tonumber(gate[1] or 0),
    row = tonumber(gate[2] or 0),
  }
  -- A job whose isolation has no slots (any more) must not hold the others up.
  if spec.shared_slots > 0 then v.shared, v.shared_rank = head(K.waiting_shared) end
  if spec.exclusive_slots > 0 then v.exclusive, v.exclusive_rank = head(K.waiting_exclusive) end
  return v
end

-- Why no job of this isolation can start now; nil: one can.
local function blocked(v, spec, isolation)
  if not v.opened then return 'REPAIRING' end
  if isolation == 'shared' then
    if v.exclusive_running > 0 then return 'EXCLUSIVE_RUNNING' end
    if v.exclusive and v.bypassed >= spec.exclusive_patience then return 'DRAINING_FOR_EXCLUSIVE' end
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
  if shared and exclusive then return v.shared_rank < v.exclusive_rank and 'shared' or 'exclusive' end
  return shared and 'shared' or exclusive and 'exclusive' or nil
end

-- Exclusive jobs get an idle GPU; shared ones the GPU that the fewest share.
local function pick_device(spec)
  local load, best = {}, 0
  for i = 0, spec.devices - 1 do load[i] = 0 end
  for _, index in ipairs(redis.call('HVALS', K.devices)) do
    index = tonumber(index)
    if load[index] then load[index] = load[index] + 1 end
  end
  for i = 1, spec.devices - 1 do
    if load[i] < load[best] then best = i end
  end
  return best
end

local function count_start(v, isolation)
  if isolation == 'exclusive' then
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', 0, DOMAIN .. 'row', v.shared and v.row + 1 or 0)
  else
    local overtakes = v.exclusive
      and (v.shared_rank > v.exclusive_rank or arrival_of(v.shared_rank) > arrival_of(v.exclusive_rank))
    local bypassed = v.exclusive and (overtakes and v.bypassed + 1 or v.bypassed) or 0
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', bypassed, DOMAIN .. 'row', 0)
  end
end

-- Make the job a holder: the attempt gets its number, its token and its device.
local function grant(job, spec, now, nonce, by)
  note_seconds('wait', job, now - in_line_since(job))
  forget_attempt(job)
  job.attempt = (job.attempt or 0) + 1
  job.state = 'launching'
  job.admitted = now
  job.by = by
  local holder = holder_of(job)
  job.token = redis.sha1hex(nonce .. holder)
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

-- Start all that can start, `most` at the most; answer their records.
local function admit(spec, now, nonce, by, most)
  local granted = {}
  while #granted < most do
    local v = look(spec)
    local isolation = decide(v, spec)
    if not isolation then break end
    local job = load(v[isolation])
    if not job or job.state ~= 'waiting' then
      redis.call('ZREM', K['waiting_' .. isolation], v[isolation]) -- left over; nothing waits under this name
    elseif job.expires and job.expires <= now then
      leave_line(job)
      hand_to_finish(job, 'EXPIRED', now)
    else
      count_start(v, isolation)
      leave_line(job)
      granted[#granted + 1] = grant(job, spec, now, nonce, by)
    end
  end
  return granted
end

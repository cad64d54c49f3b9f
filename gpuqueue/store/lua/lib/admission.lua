-- Admission: slots, soft exclusivity and bounded bypass, for one domain (the whole class). Needs
-- clock, counts, records, line, damaged, attempts, server, places, warm, waiting_pods.
--
-- Fields of the gate:
--   bypassed: shared jobs that started ahead of the waiting exclusive jobs, since an exclusive job
--     last started or the first of them came into line;
--   row: exclusive jobs that started in a row while shared jobs waited;
--   opened: since when the holders are known to be what really runs (see open);
--   opened_on: that time, and the server on which it was written.
-- A shared start clears row, an exclusive start clears bypassed, and bypassed > 0 needs a shared
-- start. So a closed gate (bypassed >= exclusive_patience >= 1) and a full row (row >=
-- shared_patience >= 1) never meet: in an idle domain, one isolation can always start.

-- Seconds until a job is looked at again whose application is being tried.
local RECHECK = 5

local function head(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- Why nothing starts on this machine; nil: jobs may start. In a cluster, each job has an image.
local function aside_on(spec)
  if not spec.host then return nil end
  if standing(host_place(spec)) == 'held' then return 'HOST_SET_ASIDE' end
  if standing(application_place(spec)) == 'held' then return 'APPLICATION_HELD' end
  return nil
end

-- Everything that a decision depends on.
local function look(spec)
  local bypassed, row = DOMAIN .. 'bypassed', DOMAIN .. 'row'
  local gate = redis.call('HMGET', K.gate, bypassed, row, 'opened', 'opened_on')
  local v = {
    opened = gate[3],
    opened_on = gate[4],
    aside = aside_on(spec),
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

-- The jobs of each GPU, and for how many of an isolation it has room.
local function jobs_of_devices(spec, isolation)
  local jobs = {}
  for i = 0, spec.devices - 1 do jobs[i] = 0 end
  for _, index in ipairs(redis.call('HVALS', K.devices)) do
    index = tonumber(index)
    if jobs[index] then jobs[index] = jobs[index] + 1 end
  end
  return jobs, isolation == 'shared' and math.ceil(spec.shared_slots / spec.devices) or 1
end

-- The GPU of the next job of an isolation: the idle one for an exclusive job, the one with the
-- fewest jobs for a shared one. One that is due for its probe comes first, one where this job has
-- failed comes last. A GPU takes its share of the slots, also if others are set aside. Answer: its
-- index; nil: none can take the job now.
local function pick_device(spec, isolation, job)
  local jobs, room = jobs_of_devices(spec, isolation)
  local avoided, best, least, any_aside = {}, nil, nil, false
  for _, name in ipairs(job and job.avoid or {}) do avoided[name] = true end
  for i = 0, spec.devices - 1 do
    local name = device_place(spec, i)
    local stands = standing(name)
    any_aside = any_aside or stands ~= nil
    local rank = (avoided[name] and 2000000 or 0) + (stands and 0 or 1000000) + jobs[i]
    local usable = stands ~= 'held' and jobs[i] < room
    if usable and (not best or rank < best[2]) then best = { i, rank } end
    if not least or jobs[i] < jobs[least] then least = i end
  end
  -- Without a fault, other limits than those of the slots hold nothing back.
  return best and best[1] or not any_aside and least or nil
end

-- Why no job of this isolation can start now; nil: one can.
local function blocked(v, spec, isolation)
  if not v.opened then return 'REPAIRING' end
  if v.aside then return v.aside end
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
  local limited = spec.devices > 0 and places_of_kind('device') > 0
  if limited and not pick_device(spec, isolation) then return 'DEVICE_SET_ASIDE' end
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

-- The host and the application of the next attempt; its GPU comes later.
local function places_of(spec, job)
  local application = application_place(spec, job)
  return spec.host and { host_place(spec), application } or { application }
end

-- Out of line until the application of its image may be tried again. Its place is kept.
local function put_aside(job, name)
  local entry = place_entry(name)
  leave_line(job)
  local pause = entry['until'] > now and entry['until'] - now or RECHECK
  -- In the order of the line, if many return at once.
  job.state, job.eta = 'delayed', now + pause + (job.arrival or 0) % 2 ^ 20 / 2 ^ 20
  job.wait, job.detail = 'APPLICATION_HELD', entry.error
  redis.call('ZADD', K.delayed, job.eta, job.delivery)
  if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
  save(job)
end

-- Make the job a holder: its attempt gets a number, a token and a device. `device`: the one that
-- its instance has already.
local function grant(job, ask, device)
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
  job.places = places_of(spec, job)
  if spec.devices > 0 then
    job.device = device or pick_device(spec, job.isolation, job)
    redis.call('HSET', K.devices, holder, job.device)
    job.places[#job.places + 1] = device_place(spec, job.device)
  end
  probe_places(job)
  if #job.places == 0 then job.places = nil end
  redis.call('ZADD', K['holders_' .. job.isolation], now, holder)
  redis.call('ZADD', K.launching, now, holder)
  save(job)
end

-- The first job that can start. Each job that is looked at uses up the `budget`: one that starts,
-- one that has expired, and a leftover. `ask`: the context of admit. Answer: the job, and what the
-- decision depends on; nil if none can start, or the budget is used up.
local function startable(ask, budget)
  local spec = ask.spec
  while true do
    local v = look(spec)
    local isolation = decide(v, spec)
    if not isolation then return nil end
    if budget.spent >= ask.most then
      budget.over = true
      return nil
    end
    -- What runs is compared with the holders first: this server may not know of it.
    if budget.spent == 0 and is_elsewhere(v.opened, v.opened_on) then
      redis.call('HDEL', K.gate, 'opened')
      return nil
    end
    local job, weight = load_or_set_aside(v[isolation])
    budget.spent = budget.spent + weight
    if not job or job.state ~= 'waiting' or job.isolation ~= isolation then
      -- A leftover: no job waits under this name here.
      redis.call('ZREM', K['waiting_' .. isolation], v[isolation])
      if job then put_back(job) end
    elseif job.expires and job.expires <= now then
      leave_line(job)
      hand_to_finish(job, 'EXPIRED')
    elseif standing(application_place(spec, job)) == 'held' then
      put_aside(job, application_place(spec, job))
    else
      return job, v
    end
  end
end

-- Take a job that can start out of line, and make it a holder; see grant.
local function give_slot(job, v, ask, device)
  count_start(v, job.isolation)
  leave_line(job)
  grant(job, ask, device)
end

-- Start every job that can start. Answer: {whether the budget was used up (0|1), record (JSON) of
-- each that must be launched...}
local function admit(ask)
  local granted, budget = { 0 }, { spent = 0 }
  while true do
    local job, v = startable(ask, budget)
    if not job then break end
    give_slot(job, v, ask)
    if wake_pod(job, ask.spec) then
      count('warm', job)
    else
      granted[#granted + 1] = cjson.encode(job)
      free_shares(ask.spec)
    end
  end
  if budget.over then granted[1] = 1 end
  return granted
end

-- Admission: slots, soft exclusivity and bounded bypass. Needs clock, counts, records, slots,
-- domains, tenants, line, damaged, attempts, server, holds, places, held, warm, waiting_pods,
-- placement, reserved.
--
-- Fields of the gate:
--   bypassed: shared jobs that started ahead of the waiting exclusive jobs, since an exclusive job
--     last started or the first of them came into line;
--   row: exclusive jobs that started in a row while shared jobs waited;
--   opened: since when the holders are known to be what really runs (see open);
--   opened_on: that time, and the server on which it was written;
--   domains: what the domains were made of;
--   drained: the one that becomes idle for an exclusive job, and until: when it should be, as its
--     jobs had declared (see backfills). For a class of one domain, `*:until`, while its gate is
--     closed; 0: one of its jobs has declared no end.
-- A shared start clears row, an exclusive start clears bypassed, and bypassed > 0 needs a shared
-- start. So a closed gate (bypassed >= exclusive_patience >= 1) and a full row (row >=
-- shared_patience >= 1) never meet: in an idle domain, one isolation can always start.
-- In a class of several domains the gate closes one of them alone, once no idle one is left.
--
-- A job of several GPUs is first in line until so many slots of one domain are free. Until then, no
-- exclusive job behind it starts in a class of one domain. In one of several, see reserved.

-- Seconds until a job is looked at again whose application is being tried, or for which all
-- domains are too small.
local RECHECK, TOO_SMALL = 5, 30

-- The first job of a line: its delivery and rank. By tenants, once one is known.
local function head(key)
  if tenancy.on() then return tenancy.first(key == K.waiting_shared and 'shared' or 'exclusive') end
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- Whether a hold is of every job of a class. Where nodes are domains, that no node comes keeps jobs
-- from domains without a node alone: see domain.place.
local function is_of_all(kind, spec)
  return kind ~= 'scheduling' or spec.domain ~= 'node'
end

-- The kind of the hold that keeps every job of a class from its start in a cluster; nil: none.
local function held_by(spec)
  read_holds()
  for _, kind in ipairs(CLASS_HOLDS) do
    if is_of_all(kind, spec) and standing(hold_of_class(kind)) == 'held' then return kind end
  end
  return nil
end

-- Why nothing starts on this machine, or in this cluster; nil: jobs may start. In a cluster, each
-- job has an image. `spec.goes_on`: it starts in a pod that runs, which meets no hold.
local function aside_on(spec)
  if not spec.host then
    local kind = not spec.goes_on and held_by(spec)
    return kind and HOLD_WAITS[kind] or nil
  end
  if standing(host_place(spec)) == 'held' then return 'HOST_SET_ASIDE' end
  if standing(application_place(spec)) == 'held' then return 'APPLICATION_HELD' end
  return nil
end

-- Whether the first shared job ends before what drains would be idle without it. Its limit counts
-- from its start, so it may be later by what a start takes; the time until which others are let in
-- does not move with it.
function domain.ends_in_time(v)
  local job = load(v.shared)
  local limit = job and domain.planned_limit(job)
  return limit and now + limit <= v.until_idle or false
end

-- Whether the first shared job may start in the domain that drains.
function domain.backfills(v, spec)
  if not v.drained or not domain.takes(v.drained, 'shared') then return false end
  if standing(domain.place(spec, v.drained)) then return false end
  return domain.ends_in_time(v)
end

-- Whether the gate of a class of one domain is closed to shared jobs.
local function is_closed(v, spec)
  return v.exclusive ~= nil and v.bypassed >= spec.exclusive_patience
end

-- Whether the first shared job may start although the gate is closed. In an idle class, it would
-- take the turn of the exclusive job.
local function passes_gate(v, spec)
  local drains = is_closed(v, spec) and v.shared_running > 0
  return drains and v.shared and v.until_idle and domain.ends_in_time(v) or false
end

-- Everything that a decision depends on. `asked`: an isolation to look at even if none of its jobs
-- may be next.
local function look(spec, asked)
  local bypassed, row = DOMAIN .. 'bypassed', DOMAIN .. 'row'
  local fields = { bypassed, row, 'opened', 'opened_on', 'drained', 'until', DOMAIN .. 'until' }
  local more = { 'domains', 'shares', 'several', 'reserved', 'reserved_for', 'strict' }
  for _, name in ipairs(more) do fields[#fields + 1] = name end
  local gate = redis.call('HMGET', K.gate, unpack(fields))
  local v = {
    opened = gate[3],
    opened_on = gate[4],
    aside = aside_on(spec),
    shared_running = redis.call('ZCARD', K.holders_shared),
    exclusive_running = redis.call('ZCARD', K.holders_exclusive),
    bypassed = tonumber(gate[1] or 0),
    row = tonumber(gate[2] or 0),
    several = gate[10],
    needs = 1,
  }
  v.holders = v.shared_running + v.exclusive_running
  if v.several then
    v.exclusive_running = v.exclusive_running + slots.beyond()
    v.unkept = redis.call('ZCARD', K.holders_further) == 0
  end
  -- A job whose isolation has no slots (any more) must not hold up the other isolation.
  if spec.shared_slots > 0 then v.shared, v.shared_rank = head(K.waiting_shared) end
  if spec.exclusive_slots > 0 then v.exclusive, v.exclusive_rank = head(K.waiting_exclusive) end
  -- How many slots the first exclusive job needs.
  if v.exclusive and v.several then v.needs = slots.of_job(load(v.exclusive)) end
  if spec.domain then
    v.drained, v.domains, v.shares = gate[5] or nil, gate[8] or nil, tonumber(gate[9] or 0)
    v.reserved, v.reserved_for = gate[11] or nil, gate[12] or nil
    v.strict = gate[13] or nil
    if v.shared or asked == 'shared' then
      v.shared_domain, v.shared_why = domain.pick(spec, 'shared', nil, v.drained)
    end
    if v.exclusive or asked == 'exclusive' then domain.look_for_exclusive(v, spec) end
    v.until_idle = tonumber(gate[6] or 0)
    v.backfills = v.shared and not v.shared_domain and domain.backfills(v, spec)
    if v.backfills then v.shared_domain = v.drained end
  else
    v.until_idle = tonumber(gate[7] or nil)
    v.backfills = passes_gate(v, spec)
  end
  return v
end

-- Whether enough exclusive jobs of a class of several domains have started in a row.
function domain.is_turn_of_shared(v, spec)
  return v.shared and v.shared_domain and v.row >= spec.shared_patience
end

-- Why no job of an isolation can start now in such a class; nil: one can.
function domain.blocked(v, spec, isolation)
  -- An executor may not count the domains.
  if not v[isolation .. '_domain'] and v.shares == 0 then return OF_NODES.no_room end
  if isolation == 'shared' then
    if v.shared_domain then return nil end
    local none_shares = v.shared_running == 0 and v.exclusive_running > 0
    return v.shared_why or none_shares and 'EXCLUSIVE_RUNNING' or 'NO_FREE_SLOT'
  end
  if not v.exclusive_domain then
    return v.exclusive_why or v.shared_running > 0 and 'SHARED_RUNNING' or 'NO_FREE_SLOT'
  end
  return domain.is_turn_of_shared(v, spec) and 'TURN_OF_SHARED' or nil
end

-- The job that starts before the first exclusive one, which must wait; nil: none does.
function domain.passes(v, spec)
  local may = v.opened and not v.aside and not domain.is_turn_of_shared(v, spec)
  return may and v.passing or nil
end

-- The same in any class. Of exclusive jobs, it is about the first.
local function blocked(v, spec, isolation)
  if not v.opened then return 'REPAIRING' end
  if v.aside then return v.aside end
  if spec.domain then return domain.blocked(v, spec, isolation) end
  if isolation == 'shared' then
    if v.exclusive_running > 0 then return 'EXCLUSIVE_RUNNING' end
    if is_closed(v, spec) and not v.backfills then return 'DRAINING_FOR_EXCLUSIVE' end
    if v.shared_running >= spec.shared_slots then return 'NO_FREE_SLOT' end
  else
    if v.shared_running > 0 then return 'SHARED_RUNNING' end
    if v.exclusive_running + v.needs > spec.exclusive_slots then return 'NO_FREE_SLOT' end
    if v.shared and v.row >= spec.shared_patience then return 'TURN_OF_SHARED' end
  end
  local limited = spec.devices > 0 and places_of_kind('device') > 0
  local number = isolation == 'exclusive' and v.needs or 1
  local picked = not limited or domain.pick_devices(spec, isolation, nil, number)
  if not picked then return 'DEVICE_SET_ASIDE' end
  return nil
end

-- The isolation of the job that starts next, and its delivery; nil: none starts.
local function decide(v, spec)
  local shared = v.shared and not blocked(v, spec, 'shared')
  local exclusive = v.exclusive and not blocked(v, spec, 'exclusive')
  local passing = v.exclusive and not exclusive and domain.passes(v, spec) or nil
  local isolation = shared and 'shared' or (exclusive or passing) and 'exclusive' or nil
  if shared and (exclusive or passing) then
    local rank = passing and passing.rank or v.exclusive_rank
    isolation = tenancy.on() and tenancy.before(passing) or nil
    isolation = isolation or (v.shared_rank < rank and 'shared' or 'exclusive')
  end
  return isolation, isolation == 'exclusive' and passing and passing.delivery or v[isolation]
end

local function count_start(v, isolation)
  if isolation == 'exclusive' then
    -- What waits at a limit of its tenant keeps its count: it may be the first again in a moment.
    local row = v.shared and v.row + 1 or tenancy.waits('shared') and v.row or 0
    -- The first one still waits if this one was behind it.
    local bypassed = v.passing and v.bypassed or 0
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', bypassed, DOMAIN .. 'row', row)
  else
    local overtakes = v.exclusive
      and (
        -- The first exclusive job of today may be another one tomorrow.
        tenancy.on()
        or v.shared_rank > v.exclusive_rank
        or arrival_of(v.shared_rank) > arrival_of(v.exclusive_rank)
      )
    overtakes = overtakes and not v.backfills
    local bypassed = v.exclusive and (overtakes and v.bypassed + 1 or v.bypassed)
      or tenancy.waits('exclusive') and v.bypassed
      or 0
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', bypassed, DOMAIN .. 'row', 0)
  end
end

-- Fix when a class of one domain should be idle, once its gate is closed; forget it once that is
-- open. Answer: what the decision depends on then.
local function keep_planned_end(v, spec)
  if is_closed(v, spec) == (v.until_idle ~= nil) then return v end
  if v.until_idle then
    redis.call('HDEL', K.gate, DOMAIN .. 'until')
    v.until_idle = nil
  else
    v.until_idle = domain.last_declared_end() or 0
    redis.call('HSET', K.gate, DOMAIN .. 'until', v.until_idle)
  end
  v.backfills = passes_gate(v, spec)
  return v
end

-- Have a domain become idle for the first exclusive job once its patience is used up, and none is
-- idle; let shared jobs into it again if that is over. For one of several GPUs, it is reserved at
-- once. Answer: what the decision depends on then.
function domain.keep_drained(v, spec)
  if not spec.domain then return keep_planned_end(v, spec) end
  local waits = v.exclusive and not v.exclusive_domain
  local closed = waits and v.bypassed >= spec.exclusive_patience
  local several = waits and v.needs > 1
  local own = v.reserved_for == v.exclusive and v.reserved or v.drained
  local chosen = (closed or several) and domain.soonest(spec, own, v.needs) or nil
  local changed = domain.note_kept(v, several, chosen, closed and chosen or nil)
  return changed and look(spec) or v
end

-- The host and the application of the next attempt; its GPU comes later.
local function places_of(spec, job)
  local application = application_place(spec, job)
  return spec.host and { host_place(spec), application } or { application }
end

-- The holds that an attempt meets which must be launched.
local function holds_of(spec, job)
  if spec.host then return {} end
  read_holds()
  local names = { hold_of_image(spec, job) }
  for _, kind in ipairs(CLASS_HOLDS) do
    if is_of_all(kind, spec) then names[#names + 1] = hold_of_class(kind) end
  end
  return names
end

-- Out of line for some seconds, for a reason. Its place is kept.
local function put_off(job, pause, wait, detail)
  -- In the order of the line, if many return at once.
  job.state, job.eta = 'delayed', now + pause + (job.arrival or 0) % 2 ^ 20 / 2 ^ 20
  job.wait, job.detail = wait, detail
  redis.call('ZADD', K.delayed, job.eta, job.delivery)
  tenancy.aside(job)
  if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
  save(job)
end

-- Out of line until the application of its image, or the image, may be tried again.
local function put_aside(job, name, wait, spec)
  local entry = place_entry(name)
  leave_line(job)
  local pause = entry['until'] > now and entry['until'] - now or RECHECK
  if wait == HOLD_WAITS.image then
    job.held = job.held or in_line_since(job)
    pause = math.min(pause, waits_until(job, entry, spec) - now)
  end
  put_off(job, pause, wait, entry.error)
end

-- A job that needs more GPUs than any domain has keeps no other one from its turn.
local function put_off_too_large(job, most)
  local words = 'gpu.gpus=%d exceeds the %d exclusive slots of the largest domain of the class;'
    .. ' it waits for a larger one'
  leave_line(job)
  put_off(job, TOO_SMALL, OF_NODES.no_room, string.format(words, slots.of_job(job), most))
end

-- Make the job a holder: its attempt gets a number, a token, a domain and a device. `at`: the
-- domain and the devices that its instance has already. Answer: the record as text.
local function grant(job, ask, v, at)
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
  local number = slots.of_job(job)
  slots.enter(holder, number)
  if spec.domain then
    -- Where it is to start if it need not keep away from any.
    local chooses = job.avoid and not (at.domain or v.backfills)
    local away = domain.kept_from(v, job.isolation)
    local other = chooses and domain.pick(spec, job.isolation, job, away, number)
    local passes = job.isolation == 'exclusive' and v.passing
    job.domain = at.domain or other or passes and passes.domain or v[job.isolation .. '_domain']
    local ends = domain.planned_end(job, now)
    local own = domain.enter(holder, job.domain, job.isolation, ends, number)
    if job.isolation == 'exclusive' then domain.started_in(job.domain, job, v) end
    job.origin = spec.domain == 'node' and own and own.origin or nil
  end
  if spec.devices > 0 then
    local own = spec.domain == 'device' and { tonumber(job.domain) }
    local devices = at.devices or own or domain.pick_devices(spec, job.isolation, job, number)
    job.device = devices[1]
    if number > 1 then job.all_devices = table.concat(devices, ',') end
    slots.hold_devices(holder, devices)
    for _, index in ipairs(devices) do job.places[#job.places + 1] = device_place(spec, index) end
  end
  -- The leader may not have noted yet how many slots there are.
  local used = { shared = v.shared_running, exclusive = v.exclusive_running }
  used[job.isolation] = used[job.isolation] + number
  domain.widen(used)
  probe_places(job, job.places)
  if spec.domain == 'node' then probe_places(job, { domain.place(spec, job.domain) }) end
  if not spec.goes_on then probe_places(job, holds_of(spec, job)) end
  if #job.places == 0 then job.places = nil end
  redis.call('ZADD', K['holders_' .. job.isolation], now, holder)
  redis.call('ZADD', K.launching, now, holder)
  return save(job)
end

-- The hold for which a job has waited too long; nil: none.
local function held_for_long(job, spec)
  if spec.host or spec.goes_on or not spec.held_timeout then return nil end
  for _, name in ipairs(holds_of(spec, job)) do
    if standing(name) == 'held' and outlasts(job, place_entry(name), spec) then return name end
  end
  return nil
end

-- The isolation whose first job has waited for a hold for too long; nil: none has.
local function outlasting(v, ask)
  local may = v.opened and v.aside and ask.spec.held_timeout
  if not may then return nil end
  for _, isolation in ipairs({ 'shared', 'exclusive' }) do
    local job = v[isolation] and load(v[isolation])
    if job and held_for_long(job, ask.spec) then return isolation end
  end
  return nil
end

-- The first job that can start. Each job that is looked at uses up the `budget`: one that starts,
-- one that has expired, and a leftover. With a new budget, the domains are compared with the spec.
-- `ask`: the context of admit. Answer: the job, and what the decision depends on; nil if none can
-- start, or the budget is used up.
local function startable(ask, budget)
  local spec = ask.spec
  if domain.is_elsewhere(spec) then return nil end
  while true do
    local v = look(spec)
    local changed = v.unkept
    if v.unkept then slots.keep() end
    if spec.domain and not budget.kept then
      changed = domain.keep(spec, v.domains, v.holders) or changed
      budget.kept = true
    end
    if tenancy.keep(spec, budget, v) or changed then v = look(spec) end
    v = domain.keep_drained(v, spec)
    local too_small = v.opened and domain.too_small_for(v.needs, spec)
    local isolation, delivery
    if too_small then
      isolation, v.passing = 'exclusive', nil
    else
      isolation, delivery = decide(v, spec)
    end
    if not isolation then isolation = outlasting(v, ask) end
    if not isolation then return nil end
    delivery = delivery or v[isolation]
    if budget.spent >= ask.most then
      budget.over = true
      return nil
    end
    -- What runs is compared with the holders first: this server may not know of it.
    if budget.spent == 0 and is_elsewhere(v.opened, v.opened_on) then
      redis.call('HDEL', K.gate, 'opened')
      return nil
    end
    local job, weight = load_or_set_aside(delivery)
    budget.spent = budget.spent + weight
    if not job or job.state ~= 'waiting' or job.isolation ~= isolation then
      -- A leftover: no job waits under this name here.
      redis.call('ZREM', K['waiting_' .. isolation], delivery)
      tenancy.drop(isolation, job)
      if job then put_back(job) end
    elseif job.expires and job.expires <= now then
      leave_line(job)
      hand_to_finish(job, 'EXPIRED')
    elseif slots.of_job(job) > 1 and not v.several then
      slots.keep() -- the gate was lost
    elseif too_small then
      put_off_too_large(job, too_small)
    elseif held_for_long(job, spec) then
      end_held(job, held_for_long(job, spec), spec)
    elseif standing(application_place(spec, job)) == 'held' then
      put_aside(job, application_place(spec, job), 'APPLICATION_HELD', spec)
    elseif not spec.goes_on and standing(hold_of_image(spec, job)) == 'held' then
      put_aside(job, hold_of_image(spec, job), HOLD_WAITS.image, spec)
    else
      return job, v
    end
  end
end

-- Take a job that can start out of line, and make it a holder. If that fails it is in line again,
-- since a script that fails keeps what it has written. Answer: that of grant.
local function give_slot(job, v, ask, at)
  local delivery = job.delivery
  local done, text = pcall(function()
    count_start(v, job.isolation)
    leave_line(job, true)
    local granted = grant(job, ask, v, at or {})
    tenancy.started(job)
    return granted
  end)
  if done then return text end
  local known = load(delivery)
  if known and known.state == 'waiting' then pcall(take_place, known) end
  error(text, 0)
end

-- Start every job that can start. Answer: {whether the budget was used up (0|1), record (JSON) of
-- each that must be launched...}
local function admit(ask)
  local granted, budget = { 0 }, { spent = 0 }
  while true do
    local job, v = startable(ask, budget)
    if not job then break end
    local text = give_slot(job, v, ask)
    if wake_pod(job, ask.spec) then
      count('warm', job)
    else
      -- A node that is a domain was chosen by its place.
      if not (ask.spec.host or ask.spec.domain) then text = choose_nodes(job) or text end
      if domain.is_unbound(job.domain) then text = domain.keep_off(job) or text end
      granted[#granted + 1] = text
      make_way(job, ask.spec)
    end
  end
  if budget.over then granted[1] = 1 end
  return granted
end

-- The gate: soft exclusivity and bounded bypass, and which job starts next. Needs clock, records,
-- slots, domains, tenants, line, holds, places, placement, reserved.
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
  local more = { 'domains', 'shares', 'several', 'reserved', 'reserved_for', 'strict', 'gpus' }
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
    domains = gate[8] or nil,
    gpus = gate[14] or nil,
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
    v.drained, v.shares = gate[5] or nil, tonumber(gate[9] or 0)
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

-- A class of several domains: the one that becomes idle for its first exclusive job. While that
-- needs several GPUs and must wait, one is reserved for it, and the exclusive jobs behind it start
-- in the others alone.
-- Needs clock, records, slots, tenants, tenant_turns, places, domains, placement.
--
-- Fields of K.gate, from the moment at which the job must wait until it leaves the line:
--   reserved: that domain. Once shared jobs have used up the patience of the job, the same domain
--     drains (see gate);
--   reserved_for: the job.
-- A job of better priority, or of a tenant that comes first, may start there, if no other domain
-- takes it. Field `strict` names the last waiting job to which that has happened: no job behind it
-- starts any more, in any domain. Else such jobs could keep the one that is free soonest from it,
-- and the jobs behind it all others.

-- The keys of the domains with as many exclusive slots as a job needs, by when they are idle.
function domain.ends_of(number)
  local sizes = number > 1 and domain.sizes()
  if not sizes then return { domain.key('ends') } end
  local keys = {}
  for _, size in ipairs(sizes) do
    if size >= number then keys[#keys + 1] = domain.key('ends', size) end
  end
  return keys
end

-- A time that is long over counts as that of jobs without a limit: they do not end as they should.
local OVERDUE = 300

function domain.believed(at)
  return at > 0 and at < now - OVERDUE and domain.NO_END or at
end

-- When so many slots of a domain are free for one exclusive job, as its holders have declared; more
-- holders without a limit make it later. math.huge: it has fewer slots.
function domain.free_at(name, number)
  local found_before = domain.frees[name]
  if found_before and found_before.number == number then return found_before.at end
  local own, shared = domain.slots(name), domain.holders(name, 'shared')
  local over = domain.holders(name, 'exclusive') + number - (own and own.exclusive or 0)
  local at = domain.last_end(name, 'shared', shared)
  if over > 0 then -- so many of its exclusive holders end first
    local key = domain.key('exclusive', name)
    local found = redis.call('ZRANGE', key, over - 1, over - 1, 'WITHSCORES')
    at = math.max(at, tonumber(found[2] or math.huge))
  end
  at = domain.believed(at)
  if at >= domain.NO_END and at < math.huge then
    at = domain.NO_END + shared + math.max(0, over) * domain.ALONE
  end
  domain.frees[name] = { number = number, at = at }
  return at
end

-- The domains that may be free soonest for a job of so many slots, and when; in pairs.
function domain.candidates(number)
  if number == 1 then
    local key, most, from = domain.key('ends'), domain.enough(1), now - OVERDUE
    local found =
      redis.call('ZRANGE', key, from, '+inf', 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
    return #found > 0 and found or redis.call('ZRANGE', key, 0, most - 1, 'WITHSCORES')
  end
  local found = {}
  for _, key in ipairs(domain.ends_of(number)) do
    local names = redis.call('ZRANGE', key, 0, domain.MOST - 1)
    if #names > 0 then domain.read_slots(names) end
    for _, name in ipairs(names) do
      found[#found + 1], found[#found + 2] = name, domain.free_at(name, number)
    end
  end
  return found
end

-- The domain that is free soonest for an exclusive job of so many slots: by declared limits, then
-- by fewest holders. `current`: the one that drains, or is reserved, gives way to a better one
-- alone: what it is judged by only falls, so that this has an end.
function domain.soonest(spec, current, number)
  local best, least = nil, math.huge
  if current and standing(domain.place(spec, current)) ~= 'held' then
    local score = redis.call('ZSCORE', domain.key('ends'), current)
    local own = score and domain.believed(tonumber(score))
    if score and number > 1 then own = domain.free_at(current, number) end
    if own and own < math.huge then
      best, least = current, own
    end
  end
  local found = domain.candidates(number)
  for i = 1, #found, 2 do
    local at = domain.believed(tonumber(found[i + 1]))
    if at < least and standing(domain.place(spec, found[i])) ~= 'held' then
      best, least = found[i], at
    end
  end
  return best
end

-- How many of the jobs behind it one decision looks at.
domain.BEHIND = 8

do
  -- Delivery → how many slots a job needs; false: it is no job of the line.
  local needs = {}

  local function needed(delivery)
    if needs[delivery] == nil then
      local job = load(delivery)
      local waits = job and job.state == 'waiting' and job.isolation == 'exclusive'
      needs[delivery] = waits and slots.of_job(job)
    end
    return needs[delivery]
  end

  -- The exclusive jobs behind the first one, in order: each with delivery and rank.
  local function behind()
    if tenancy.on() then return tenancy.behind('exclusive', domain.BEHIND) end
    local found = redis.call('ZRANGE', K.waiting_exclusive, 1, domain.BEHIND, 'WITHSCORES')
    local jobs = {}
    for i = 1, #found, 2 do
      jobs[#jobs + 1] = { delivery = found[i], rank = tonumber(found[i + 1]) }
    end
    return jobs
  end

  -- Whether the first exclusive job is the one that a domain is reserved for.
  local function is_for_first(v)
    return v.reserved ~= nil and v.reserved_for == v.exclusive
  end

  -- The first job behind that a domain takes which is not reserved, with its `domain`; nil: none.
  local function passing(spec, v)
    local reserved = is_for_first(v) and v.reserved or nil
    if v.strict == v.exclusive then return nil end
    if not domain.pick(spec, 'exclusive', nil, reserved) then return nil end
    for _, job in ipairs(behind()) do
      local number = needed(job.delivery)
      job.domain = number and domain.pick(spec, 'exclusive', nil, reserved, number)
      if job.domain then return job end
    end
    return nil
  end

  -- Whether no node came in time for a job.
  local function is_unmet(delivery)
    local job = load(delivery or '')
    return job ~= nil and job.refused == 'scheduling'
  end

  -- No node has come of late. To try again takes as long as a pod waits, and meanwhile jobs of the
  -- other isolation would start in the domains that exist, uncounted, each time. So a first job for
  -- which none came stays in line beside them, until its patience, or its turn, gives it one that
  -- exists. Others may try, and so does a shared one without exclusive jobs in line: this is not
  -- called then.
  local function stay_in_line(v)
    local shared_there = v.shared or v.shared_running > 0
    if domain.is_unbound(v.exclusive_domain) and shared_there and is_unmet(v.exclusive) then
      v.exclusive_domain, v.exclusive_why = nil, HOLD_WAITS.scheduling
    end
    if domain.is_unbound(v.shared_domain) and is_unmet(v.shared) then
      v.shared_domain, v.shared_why = nil, HOLD_WAITS.scheduling
    end
  end

  -- Find the domain of the first exclusive job, rather another one than that which is reserved for
  -- a job behind it; without any, the job that starts before it.
  function domain.look_for_exclusive(v, spec)
    if v.reserved and not is_for_first(v) then
      v.exclusive_domain = domain.pick(spec, 'exclusive', nil, v.reserved, v.needs)
    end
    if not v.exclusive_domain then
      v.exclusive_domain, v.exclusive_why = domain.pick(spec, 'exclusive', nil, nil, v.needs)
    end
    if standing(hold_of_class('scheduling')) then stay_in_line(v) end
    if v.needs > 1 and not v.exclusive_domain then v.passing = passing(spec, v) end
  end

  -- The domain where no job of an isolation starts at present. `v`: what the decision depends on.
  function domain.kept_from(v, isolation)
    if isolation == 'shared' then return not v.backfills and v.drained or nil end
    return v.passing and v.reserved or nil
  end

  -- Whether the job still waits that a domain is reserved for.
  local function still_waits(v)
    local job = v.reserved and v.reserved_for
    return job and redis.call('ZSCORE', K.waiting_exclusive, job) and true or false
  end

  -- The domain that is reserved, and for which job; nil: none.
  local function reserve(v, several, chosen)
    local waits = still_waits(v)
    if several and chosen then
      if waits and not is_for_first(v) then redis.call('HSET', K.gate, 'strict', v.reserved_for) end
      return chosen, v.exclusive
    end
    if not waits or several and is_for_first(v) then return nil end
    return v.reserved, v.reserved_for
  end

  -- Note what is reserved and what drains; nil: none. `several`: whether the first job needs
  -- several GPUs and must wait; `chosen`: the domain that it gets soonest, nil: none may be.
  -- Answer: whether anything has changed.
  function domain.note_kept(v, several, chosen, drained)
    local reserved, job = reserve(v, several, chosen)
    local same = reserved == v.reserved and job == v.reserved_for
    if not same and reserved then
      redis.call('HSET', K.gate, 'reserved', reserved, 'reserved_for', job)
    elseif not same then
      redis.call('HDEL', K.gate, 'reserved', 'reserved_for')
    end
    if drained == v.drained then return not same end
    if drained then
      redis.call('HSET', K.gate, 'drained', drained, 'until', domain.ends(drained) or 0)
    else
      redis.call('HDEL', K.gate, 'drained', 'until')
    end
    return true
  end

  -- An exclusive job starts in a domain.
  function domain.started_in(name, job, v)
    if v.reserved_for == job.delivery then
      redis.call('HDEL', K.gate, 'reserved', 'reserved_for', 'strict')
    elseif v.reserved == name and still_waits(v) then
      redis.call('HSET', K.gate, 'strict', v.reserved_for)
    end
  end
end

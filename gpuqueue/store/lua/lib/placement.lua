-- Placement: the domain that a job starts in, and the one that becomes idle for an exclusive job.
-- Needs clock, records, places, domains.

-- How many domains one decision looks at.
domain.MOST = 64

-- Where an attempt is that holds a slot, as far as its record says.
function domain.of_record(spec, job)
  if job.domain then return job.domain end
  local name = job.node
  if spec.domain == 'device' then name = job.device and tostring(job.device) end
  return name or domain.NOWHERE_YET
end

-- Whether each holder of the class is in a domain, and no other. `running`: how many there are, if
-- that is known.
function domain.are_whole(running)
  running = running
    or redis.call('ZCARD', K.holders_shared) + redis.call('ZCARD', K.holders_exclusive)
  return running == redis.call('ZCARD', domain.key('held'))
end

-- Put each holder of the class into its domain again.
function domain.place_holders(spec)
  for _, holder in ipairs(redis.call('ZRANGE', domain.key('held'), 0, -1)) do
    domain.leave(holder)
  end
  for _, isolation in ipairs({ 'shared', 'exclusive' }) do
    for _, holder in ipairs(redis.call('ZRANGE', K['holders_' .. isolation], 0, -1)) do
      local job = load(delivery_of(holder) or '')
      local name, ends = domain.NOWHERE_YET, domain.NO_END
      if job and holder_of(job) == holder then
        name, ends = domain.of_record(spec, job), domain.planned_end(job, job.started or now)
      end
      domain.enter(holder, name, isolation, ends)
    end
  end
end

-- The others are no domains of the class any more. What holds a slot there keeps it.
function domain.keep_only(domains)
  local before = redis.call('HGETALL', K.domains)
  for i = 1, #before, 2 do
    local name = before[i]
    if not domains[name] then
      redis.call('HDEL', K.domains, name)
      domain.index(name)
    end
  end
end

-- The domains of the class are these from now on. `domains`: name → {shared, exclusive}.
function domain.set(spec, domains)
  local shares = 0
  domain.keep_only(domains)
  for name, slots in pairs(domains) do
    shares = shares + math.max(slots.shared, slots.exclusive)
    redis.call('HSET', K.domains, name, cjson.encode(slots))
    domain.index(name)
  end
  redis.call('HSET', K.gate, 'shares', shares)
  domain.place_holders(spec)
end

-- How many holders may be in any domain.
function domain.without_place()
  local nowhere = domain.NOWHERE_YET
  return domain.holders(nowhere, 'shared') + domain.holders(nowhere, 'exclusive')
end

-- The class is one domain from now on.
function domain.forget()
  for _, holder in ipairs(redis.call('ZRANGE', domain.key('held'), 0, -1)) do
    domain.leave(holder)
  end
  domain.keep_only({})
  redis.call('HDEL', K.gate, 'domains', 'shares', 'drained', 'until')
end

-- What the domains of a class with GPUs follow from, as text.
function domain.signature(spec)
  return string.format('device:%d:%d:%d', spec.devices, spec.shared_slots, spec.exclusive_slots)
end

-- The spec of a class as people have it does not say which GPUs are its domains: the gate does.
function domain.learn(spec)
  local known = redis.call('HGET', K.gate, 'domains')
  spec.domain = known and string.match(known, '^%a+') or spec.domain
end

-- Make the domains of a class what its spec says, if they are not. `known`: as the gate has it.
-- `running`: how many holders the class has. The leader of a cluster says which nodes are those of
-- a class; until then it has none. Answer: whether they may have changed.
function domain.keep(spec, known, running)
  local others = spec.domain == 'node' and known ~= nil and known ~= 'node'
  if others then domain.forget() end
  if spec.domain == 'device' and known ~= domain.signature(spec) then
    local domains = {}
    for i = 0, spec.devices - 1 do
      domains[tostring(i)] = { shared = spec.shared_slots, exclusive = spec.exclusive_slots }
    end
    domain.set(spec, domains)
    redis.call('HSET', K.gate, 'domains', domain.signature(spec))
  elseif not domain.are_whole(running) then
    domain.place_holders(spec)
  else
    return others
  end
  return true
end

function domain.place(spec, name)
  if spec.domain == 'device' then return device_place(spec, tonumber(name)) end
  return 'node:' .. name
end

-- When the last shared job of a class of one domain ends, as their limits say; nil: one of them has
-- declared no end, or they are too many to ask. One that has ended leaves its slot at once.
function domain.last_declared_end()
  if redis.call('ZCARD', K.holders_shared) > domain.MOST then return nil end
  local last = now
  for _, holder in ipairs(redis.call('ZRANGE', K.holders_shared, 0, -1)) do
    local job = load(delivery_of(holder) or '')
    if not job or holder_of(job) ~= holder then return nil end
    local ended = job.state == 'ended'
    if not (ended or job.time_limit) then return nil end
    local ends = ended and now or domain.planned_end(job, job.started or job.admitted or now)
    last = math.max(last, ends)
  end
  return last
end

-- Whether a job of an isolation may start in a domain: it has a slot for it, and none of the other
-- isolation is there, or may be.
function domain.takes(name, isolation)
  local other = isolation == 'shared' and 'exclusive' or 'shared'
  if domain.holders(domain.NOWHERE_YET, other) > 0 then return false end
  return redis.call('ZSCORE', domain.key(isolation), name) ~= false
end

-- How many domains a decision looks at, if it needs only so many while none is set aside.
function domain.enough(few)
  return redis.call('EXISTS', K.places) == 1 and domain.MOST or few
end

-- Read the places of some domains in one step.
function domain.read_places(spec, names)
  local unknown = {}
  for _, name in ipairs(names) do
    local place = domain.place(spec, name)
    if known_places[place] == nil then unknown[#unknown + 1] = place end
  end
  if #unknown == 0 then return end
  local found = redis.pcall('HMGET', K.places, unpack(unknown))
  for i, place in ipairs(unknown) do known_places[place] = parse_place(found[i]) end
end

-- The domain of the next job of an isolation: the fullest with room. One that is due for its probe
-- comes first, one where this job has failed last. `drained`: no shared job starts there. Answer:
-- its name; nil: none takes the job now; and whether one would, were it not set aside or drained.
function domain.pick(spec, isolation, job, drained)
  local other = isolation == 'shared' and 'exclusive' or 'shared'
  if domain.holders(domain.NOWHERE_YET, other) > 0 then return nil end
  local key, avoid = domain.key(isolation), job and job.avoid or {}
  local most = domain.enough(2 + #avoid) -- all but the drained one and these
  local found = redis.call('ZRANGE', key, 1, '+inf', 'BYSCORE', 'LIMIT', 0, most)
  domain.read_places(spec, found)
  local avoided, best, least, why = {}, nil, nil, nil
  for _, name in ipairs(avoid) do avoided[name] = true end
  for _, name in ipairs(found) do
    local place = domain.place(spec, name)
    local stands = standing(place)
    if isolation == 'shared' and name == drained then
      why = why or 'DRAINING_FOR_EXCLUSIVE'
    elseif stands == 'held' then
      why = spec.domain == 'device' and 'DEVICE_SET_ASIDE' or OF_NODES.aside
    else
      -- A job keeps away from nodes by name, and from GPUs by place.
      local rank = ((avoided[place] or avoided[name]) and 2 or 0) + (stands and 0 or 1)
      if not best or rank < least then best, least = name, rank end
    end
  end
  return best, why
end

-- The domain that is idle soonest: by declared limits, then by fewest holders. The one that drains
-- gives way to a better one alone: what it is judged by only falls, so that this has an end.
function domain.soonest(spec, drained)
  local key, most = domain.key('ends'), domain.enough(1)
  local found = redis.call('ZRANGE', key, 0, most - 1, 'WITHSCORES')
  local own = drained and tonumber(redis.call('ZSCORE', key, drained) or nil)
  if own and standing(domain.place(spec, drained)) == 'held' then own = nil end
  for i = 1, #found, 2 do
    if own and tonumber(found[i + 1]) >= own then return drained end
    if standing(domain.place(spec, found[i])) ~= 'held' then return found[i] end
  end
  return own and drained or nil
end

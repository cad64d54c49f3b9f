-- Placement: the domain and the GPUs that a job gets.
-- Needs clock, records, slots, places, holds, domains.

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
      local name, ends, number = domain.NOWHERE_YET, domain.NO_END, 1
      local origin
      if job and holder_of(job) == holder then
        name, ends = domain.of_record(spec, job), domain.planned_end(job, job.started or now)
        number, origin = slots.of_job(job), job.origin
      end
      domain.enter(holder, name, isolation, ends, number)
      domain.note_origin(name, origin)
    end
  end
end

-- Redis has lost which pods have made a node come: those that run there say it.
function domain.note_origin(name, origin)
  local own = origin and domain.slots(name)
  if not own or own.origin then return end
  own.origin = origin
  domain.write(name, own)
end

-- The others are no domains of the class any more.
function domain.keep_only(domains)
  local before = redis.call('HGETALL', K.domains)
  for i = 1, #before, 2 do
    if not domains[before[i]] then domain.remove(before[i]) end
  end
end

-- The domains of the class are these from now on. `domains`: name → {shared, exclusive}.
function domain.set(spec, domains)
  local shares = 0
  domain.keep_only(domains)
  redis.call('HSET', K.gate, 'sizes', '')
  for name, own in pairs(domains) do
    shares = shares + math.max(own.shared, own.exclusive)
    domain.write(name, own)
    if spec.domain == 'node' then domain.note_there(name, true) end
  end
  if spec.domain == 'node' then domain.note_total(domain.total()) end
  redis.call('HSET', K.gate, 'shares', shares)
  domain.place_holders(spec)
  -- Idle nodes may have left, and more jobs run on the others than these have slots by now.
  domain.widen(slots.in_use())
end

-- How many holders may be in any domain.
function domain.without_place()
  return domain.nowhere('shared') + domain.nowhere('exclusive')
end

-- The class is one domain from now on.
function domain.forget()
  for _, holder in ipairs(redis.call('ZRANGE', domain.key('held'), 0, -1)) do
    domain.leave(holder)
  end
  domain.keep_only({})
  domain.note_total(1)
  redis.call('HDEL', K.gate, 'domains', 'shares', 'sizes', 'scale', 'new_node', 'nodes_of')
  redis.call('HDEL', K.gate, 'drained', 'until', 'reserved', 'reserved_for', 'strict')
end

-- Whether another cluster starts the jobs of the class: its nodes are the domains. People, who
-- start none, name neither a cluster nor a host.
function domain.is_elsewhere(spec)
  local other = domain.other_cluster(spec.owner or spec.host and '')
  return other and (spec.domain == 'node' or domain.lives(other)) or false
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
    redis.call('HDEL', K.gate, 'nodes_of')
  elseif not domain.are_whole(running) then
    domain.place_holders(spec)
  else
    return others
  end
  return true
end

-- What is set aside if jobs cannot start in a domain. Of one without a node, that no node comes.
function domain.place(spec, name)
  if spec.domain == 'device' then return device_place(spec, tonumber(name)) end
  if domain.is_unbound(name) then return hold_of_class('scheduling') end
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
    if not (ended or domain.planned_limit(job)) then return nil end
    local ends = ended and now or domain.planned_end(job, job.started or job.admitted or now)
    last = math.max(last, ends)
  end
  return last
end

-- Whether a job of an isolation may start in a domain: it has slots for it, and none of the other
-- isolation is there, or may be. `number`: of the slots that the job needs; nil: one.
function domain.takes(name, isolation, number)
  if domain.may_meet_other(isolation) then return false end
  local free = tonumber(redis.call('ZSCORE', domain.key(isolation), name) or 0)
  return free % UNBOUND.later >= (number or 1)
end

-- How many domains a decision looks at, if it needs only so many while none is set aside.
function domain.enough(few)
  return any_place() and domain.MOST or few
end

-- Read the places of some domains in one step.
function domain.read_places(spec, names)
  if not any_place() then return end
  local unknown = {}
  for _, name in ipairs(names) do
    local place = domain.place(spec, name)
    if known_places[place] == nil then unknown[#unknown + 1] = place end
  end
  if #unknown == 0 then return end
  local found = redis.pcall('HMGET', K.places, unpack(unknown))
  for i, place in ipairs(unknown) do known_places[place] = parse_place(found[i]) end
end

-- Why no job starts in a domain that is set aside.
function domain.why_aside(spec, name)
  if spec.domain == 'device' then return 'DEVICE_SET_ASIDE' end
  return domain.is_unbound(name) and HOLD_WAITS.scheduling or OF_NODES.aside
end

-- Domains with so many free slots of an isolation, the fullest first, then those without a node.
function domain.with_room(isolation, number, most)
  local key = domain.key(isolation)
  if number == 1 then
    return redis.call('ZRANGE', key, 1, '+inf', 'BYSCORE', 'LIMIT', 0, most)
  end
  local last = '(' .. UNBOUND.later
  local found = redis.call('ZRANGE', key, number, last, 'BYSCORE', 'LIMIT', 0, most)
  local first, left = UNBOUND.later + number, most - #found
  local new = redis.call('ZRANGE', key, first, '+inf', 'BYSCORE', 'LIMIT', 0, left)
  for _, name in ipairs(new) do found[#found + 1] = name end
  return found
end

-- The domain of the next job of an isolation: the fullest with room, one that has no node yet if
-- none has room. A node that is due for its probe comes first, one where this job has failed last:
-- rather a new node than that. `away`: where no job of this isolation starts, since it drains or is
-- reserved; `number`: of the slots that an exclusive job needs, nil: one. Answer: its name; nil:
-- none takes the job now; and why one does not that would otherwise.
function domain.pick(spec, isolation, job, away, number)
  if domain.may_meet_other(isolation) then return nil end
  local avoid = job and job.avoid or {}
  local most = domain.enough(2 + #avoid) -- all but this one and these
  local found = domain.with_room(isolation, number or 1, most)
  domain.read_places(spec, found)
  local avoided, best, least, why = {}, nil, nil, nil
  for _, name in ipairs(avoid) do avoided[name] = true end
  for _, name in ipairs(found) do
    local place = domain.place(spec, name)
    local stands = standing(place)
    if name == away then
      why = why or 'DRAINING_FOR_EXCLUSIVE'
    elseif stands == 'held' then
      why = domain.why_aside(spec, name)
    else
      local probed = stands and not domain.is_unbound(name)
      local failed = avoided[place] or avoided[name] -- nodes are noted by their names
      local rank = (failed and 2 or 0) + (probed and 0 or 1)
      if not best or rank < least then best, least = name, rank end
    end
  end
  return best, why
end

-- How many slots the largest domain has, if a job needs more; nil: it needs no more.
function domain.too_small_for(number, spec)
  if number <= 1 then return nil end
  local most = spec.domain and 1 or spec.exclusive_slots
  if spec.domain == 'node' then
    local sizes = domain.sizes()
    if not sizes then return nil end
    most = math.max(1, unpack(sizes))
  elseif spec.devices > 0 then
    most = math.min(most, spec.devices)
  end
  return number > most and most or nil
end

-- The jobs of each GPU, and for how many of an isolation it has room.
function domain.jobs_of_devices(spec, isolation)
  local jobs = {}
  for i = 0, spec.devices - 1 do jobs[i] = 0 end
  for _, index in ipairs(redis.call('HVALS', K.devices)) do
    index = tonumber(index)
    if jobs[index] then jobs[index] = jobs[index] + 1 end
  end
  return jobs, isolation == 'shared' and math.ceil(spec.shared_slots / spec.devices) or 1
end

-- The GPUs of the next job of an isolation: idle ones for an exclusive job, the one with the
-- fewest jobs for a shared one. One that is due for its probe comes first, one where this job has
-- failed comes last. A GPU takes its share of the slots, also if others are set aside. `number`: of
-- GPUs that the job needs. Answer: their indexes; nil: too few can take the job now.
function domain.pick_devices(spec, isolation, job, number)
  local jobs, room = domain.jobs_of_devices(spec, isolation)
  local avoided, usable, all, any_aside = {}, {}, {}, false
  for _, name in ipairs(job and job.avoid or {}) do avoided[name] = true end
  for i = 0, spec.devices - 1 do
    local name = device_place(spec, i)
    local stands = standing(name)
    any_aside = any_aside or stands ~= nil
    local rank = (avoided[name] and 2000000 or 0) + (stands and 0 or 1000000) + jobs[i]
    if stands ~= 'held' and jobs[i] < room then usable[#usable + 1] = { i, rank } end
    all[#all + 1] = { i, jobs[i] }
  end
  -- Without a fault, other limits than those of the slots hold nothing back.
  local from = #usable >= number and usable or not any_aside and all or {}
  if #from < number then return nil end
  table.sort(from, function(one, other)
    if one[2] ~= other[2] then return one[2] < other[2] end
    return one[1] < other[1]
  end)
  local picked = {}
  for i = 1, number do picked[i] = from[i][1] end
  return picked
end

-- Keep the pod of an attempt that may come to any node away from those that are set aside, and from
-- those where this job has failed: a new one may come. Answer: the record as text; nil: it has not
-- changed.
function domain.keep_off(job)
  local away, known = {}, {}
  local function add(node)
    if not known[node] then away[#away + 1] = node end
    known[node] = true
  end
  for _, node in ipairs(job.avoid or {}) do add(node) end
  for name in pairs(places()) do
    if place_kind(name) == 'node' and standing(name) then add(string.sub(name, #'node:' + 1)) end
  end
  if #away == 0 then return nil end
  table.sort(away)
  job.away = away
  return save(job)
end

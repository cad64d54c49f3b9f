-- Domains whose node does not exist yet: an autoscaler adds one for their pods. Needs clock,
-- records, slots, domains.
--
-- Such a domain is unbound. Once a pod of it has a node, the domain is bound to that: all its
-- holders are in the domain of the node from then on, whose slots name it as their `origin`. Pods
-- carry that name as a label: Kubernetes keeps those of one name together, and apart from others.
--
-- A node that appears while pods wait for one may have come for them: no job is sent there until
-- `waits`, a field of its slots, has passed, unless one of them takes it.
--
-- Fields of the gate: `scale`, how many domains the class may have with those that are unbound;
-- `new_node`, the slots of a node that comes (JSON); `named`, the number in the last name.

-- Seconds for which a node waits for the pods that may have made it come.
domain.WAITS = 60

-- No name is given twice, also if Redis has lost the last one: pods may still carry it.
function domain.give_name()
  local last = tonumber(redis.call('HGET', K.gate, 'named') or 0)
  local number = math.max(last + 1, math.floor(now))
  redis.call('HSET', K.gate, 'named', number)
  return string.format('%s%d', UNBOUND.prefix, number)
end

function domain.of_new_node()
  return decoded(redis.call('HGET', K.gate, 'new_node')) or { shared = 0, exclusive = 0 }
end

-- Add unbound domains until the class has as many domains as it may have.
local function add_missing()
  local most = tonumber(redis.call('HGET', K.gate, 'scale') or 0)
  for _ = redis.call('HLEN', K.domains) + 1, most do
    domain.write(domain.give_name(), domain.of_new_node())
  end
end

-- Move a holder to the domain of a node. `job`: if it is the holder, as its caller has it.
local function move_to(node, holder, origin, isolation, job)
  local ends = redis.call('ZSCORE', domain.key(isolation, domain.of(holder)), holder)
  domain.leave(holder)
  domain.enter(holder, node, isolation, ends, slots.of_holder(holder))
  local record = holder == holder_of(job) and job or load(delivery_of(holder) or '')
  if not record or holder_of(record) ~= holder then return end
  record.domain, record.origin = node, origin
  save(record)
end

-- The pod of a job has got a node. It is the node of its domain from now on, unless others hold
-- slots there: then an attempt that has begun stays where it is counted, and any other one must
-- give its slot back. Answer: whether it must.
function domain.bind(job, node)
  local own, holder = job.domain, holder_of(job)
  local waits = domain.is_unbound(own)
  if own == node or not (waits or job.origin) or domain.of(holder) ~= own then return false end
  if domain.other_cluster(job.owner) then return false end
  if domain.is_held(node) then return job.state == 'launching' end
  local of_node, origin = domain.slots(node) or domain.of_new_node(), waits and own or job.origin
  of_node.origin, of_node.waits = origin, nil
  domain.write(node, of_node)
  domain.note_there(node, true)
  domain.note_total(domain.total())
  if not waits then -- its domain has got another node before
    move_to(node, holder, origin, job.isolation, job)
    return false
  end
  for _, isolation in ipairs({ 'shared', 'exclusive' }) do
    for _, each in ipairs(redis.call('ZRANGE', domain.key(isolation, own), 0, -1)) do
      local is_first = redis.call('ZSCORE', domain.key('held'), each) -- not a further slot
      if is_first then move_to(node, each, origin, isolation, job) end
    end
  end
  domain.remove(own)
  add_missing()
  return false
end

-- The slots of a listed node. `before`: as they were; `expected`: for how many nodes pods wait.
local function slots_of_node(found, before, expected)
  local own = { shared = found.shared, exclusive = found.exclusive }
  own.origin = before and before.origin
  local until_then = not before and now + domain.WAITS or before and before.waits or 0
  if expected > 0 and until_then > now then own.waits = until_then end
  return own
end

-- What the domains of the class should be: name → slots. `nodes`: those that are listed; `more`:
-- how many may come; `new_node`: the slots of each; `fixed`: whether the list cannot have these.
function domain.with_unbound(nodes, more, new_node, fixed)
  local names, before, waiting, idle = {}, {}, {}, {}
  for name in pairs(nodes) do names[#names + 1] = name end
  local found = redis.call('HGETALL', K.domains)
  for i = 1, #found, 2 do
    local name = found[i]
    before[name] = domain.slots(name)
    if domain.is_unbound(name) then
      table.insert(domain.is_held(name) and waiting or idle, name)
    elseif fixed and not nodes[name] and (before[name] or {}).origin and domain.is_held(name) then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  table.sort(idle)
  local wanted, total, expected = {}, #names + #waiting, #waiting
  for _, name in ipairs(names) do
    wanted[name] = slots_of_node(nodes[name] or before[name], before[name], expected)
    if wanted[name].waits then expected = expected - 1 end
  end
  for _, name in ipairs(waiting) do wanted[name] = new_node end
  local most = more
  for _ in pairs(nodes) do most = most + 1 end
  redis.call('HSET', K.gate, 'scale', most, 'new_node', cjson.encode(new_node))
  for i = 1, most - total do wanted[idle[i] or domain.give_name()] = new_node end
  return wanted
end

-- Whether the domains of the class are these.
function domain.are(wanted)
  local total, there = 0, 0
  for name, own in pairs(wanted) do
    local before = domain.slots(name)
    total = total + 1
    if not domain.is_unbound(name) then there = there + 1 end
    if not before then return false end
    for _, field in ipairs({ 'shared', 'exclusive', 'origin', 'waits' }) do
      if before[field] ~= own[field] then return false end
    end
  end
  -- An older version does not count them for accounts.
  return total == redis.call('HLEN', K.domains) and there <= domain.total()
end

-- Domains of a class: shared and exclusive jobs must not meet in one. Needs clock, records, slots.
-- OF_NODES, the reasons of nodes, comes from model/reasons.py; UNBOUND, the prefix and the LATER of
-- domains without a node, from model/unbound.py (see lib/unbound.lua).
--
-- A class without an entry in K.domains is one domain, and has none of these keys.
--
--   K.domains            hash: domain → its slots (JSON: shared, exclusive; of a node also origin
--                        and waits, see lib/unbound.lua)
--   …:of, …:held         hash: holder → its domain; zset of the same holders, to count them
--   …:shared, :exclusive zset: domain by how many slots a job of that isolation would find free,
--                        and UNBOUND.later more while it has no node
--   …:ends               zset: domain by the time at which it is idle; see domain.index
--   …:ends:SIZE          zset: the same, of the domains with so many exclusive slots, if several
--   …:shared:NAME, …     zset: holder, and each further slot of one, in a domain by its planned end
--   …:there              zset: the nodes to account for: those of K.domains that exist, and others
--                        while something holds a slot there
--
-- The four kinds before the last follow from the records of the holders, and are made again where
-- they are not whole: an older version frees a slot without them. A holder whose domain is not yet
-- known is in the one without a name: it may be anywhere.

-- Field `nodes_of` of the gate: the cluster whose nodes the domains are. Dispatchers of another
-- one start no job of the class, and their nodes do not count, while any of its dispatchers lives.

-- The planned end of an attempt without a limit. More holders without one make a domain later.
-- An exclusive one counts as more than all shared ones that a domain may have.
-- `frees`: domain → when so many of its slots are free (see reserved), until its holders change.
local domain = { NO_END = 10 ^ 12, ALONE = 10 ^ 5, NOWHERE_YET = '', frees = {} }

-- Seconds without terms after which a cluster is gone: its dispatchers may restart.
domain.GONE_AFTER = 60

function domain.key(what, name)
  return K.domains .. ':' .. what .. (name and ':' .. name or '')
end

-- Domain → its slots as read; false: it has none that are sound.
local known_slots = {}

-- Read the slots of domains in one command.
function domain.read_slots(names)
  local found = redis.call('HMGET', K.domains, unpack(names))
  for i, name in ipairs(names) do
    local own = decoded(found[i])
    local whole = own and type(own.shared) == 'number' and type(own.exclusive) == 'number'
    known_slots[name] = whole and own or false
  end
end

function domain.slots(name)
  if known_slots[name] == nil then domain.read_slots({ name }) end
  return known_slots[name] or nil
end

-- Whether the node of a domain does not exist yet.
function domain.is_unbound(name)
  return string.match(name or '', '^' .. UNBOUND.prefix .. '%d+$') ~= nil
end

function domain.of(holder)
  return redis.call('HGET', domain.key('of'), holder)
end

function domain.holders(name, isolation)
  return redis.call('ZCARD', domain.key(isolation, name))
end

-- The cluster whose nodes the domains are, if that is not `own`; nil: it is, or none is known.
function domain.other_cluster(own)
  local owner = own and redis.call('HGET', K.gate, 'nodes_of')
  return owner and owner ~= own and owner or nil
end

-- Whether dispatchers of a cluster serve the class.
function domain.lives(owner)
  local terms = decoded(redis.call('HGET', K.terms, owner))
  return terms and (tonumber(terms['until']) or 0) > now - domain.GONE_AFTER or false
end

function domain.is_held(name)
  return domain.holders(name, 'shared') + domain.holders(name, 'exclusive') > 0
end

function domain.put(what, name, score)
  if score then
    redis.call('ZADD', domain.key(what), score, name)
  else
    redis.call('ZREM', domain.key(what), name)
  end
end

-- Whether a holder of the other isolation may be in any domain.
function domain.may_meet_other(isolation)
  local other = isolation == 'shared' and 'exclusive' or 'shared'
  return domain.nowhere(other) > 0
end

-- When the last of so many holders of an isolation ends, as its limit says.
function domain.last_end(name, isolation, number)
  if number == 0 then return 0 end
  local last = redis.call('ZRANGE', domain.key(isolation, name), -1, -1, 'WITHSCORES')
  return tonumber(last[2] or 0)
end

-- Note a capacity that holds from now on: domains, shared, exclusive, price?, rows; see accounting.
-- Of a time that has not come, none holds: the clock of Redis was ahead.
function domain.set_capacity(entry)
  entry.at = digits(micros(now))
  local text = cjson.encode(entry)
  -- Executors may not remove a range.
  for _, later in ipairs(redis.call('ZRANGE', K.capacity, entry.at, '+inf', 'BYSCORE')) do
    redis.call('ZREM', K.capacity, later)
  end
  redis.call('ZADD', K.capacity, entry.at, text)
  redis.call('HSET', K.usage, '#now', text)
end

-- Note whether a node is to be accounted for. One that does not exist yet costs nothing.
function domain.note_there(name, is_there)
  if not domain.is_unbound(name) then domain.put('there', name, is_there and 0) end
end

-- How many nodes there are to account for.
function domain.total()
  return redis.call('ZCARD', domain.key('there'))
end

-- Note how many domains there are from now on. A class whose capacity was not noted yet has none.
function domain.note_total(total)
  local current = decoded(redis.pcall('HGET', K.usage, '#now'))
  if not current or current.domains == total then return end
  current.domains = total
  pcall(domain.set_capacity, current) -- a damaged key keeps no slot from being freed
end

-- More attempts may run than a capacity has slots: each is a share of them, so that their shares
-- are no more than its domains. `used`: the slots that they have, by isolation. Answer: whether it
-- has got more slots.
function domain.fit(capacity, used)
  local total = capacity.domains or 0
  if total == 0 then return false end
  local shared, exclusive = used.shared, used.exclusive
  local own = math.max(capacity.exclusive or 0, math.ceil(exclusive / total))
  -- Adopted attempts of both may be in one domain.
  if shared > 0 and exclusive >= total * own then own = math.ceil(2 * exclusive / total) end
  local taken = exclusive > 0 and exclusive / own or 0
  local least = math.ceil(shared / (total - taken) - 10 ^ -9)
  local more = own > (capacity.exclusive or 0) or least > (capacity.shared or 0)
  capacity.exclusive, capacity.shared = own, math.max(capacity.shared or 0, least)
  return more
end

-- The same for the capacity that holds now. A damaged key keeps no job from its start.
function domain.widen(used)
  local current = decoded(redis.pcall('HGET', K.usage, '#now'))
  if current and domain.fit(current, used) then pcall(domain.set_capacity, current) end
end

-- How many holders of an isolation may be in any domain. One decision asks it several times.
local unplaced = {}
function domain.nowhere(isolation)
  unplaced[isolation] = unplaced[isolation] or domain.holders(domain.NOWHERE_YET, isolation)
  return unplaced[isolation]
end

-- Answer: the slots of the domain.
function domain.index(name)
  if name == domain.NOWHERE_YET then
    unplaced = {}
    return nil
  end
  domain.frees[name] = nil
  local own = domain.slots(name)
  local usable = own and not own.waits
  local later = domain.is_unbound(name) and UNBOUND.later or 0
  local shared, exclusive = domain.holders(name, 'shared'), domain.holders(name, 'exclusive')
  if not own and redis.call('HGET', K.gate, 'domains') == 'node' then
    domain.note_there(name, shared + exclusive > 0)
    domain.note_total(domain.total())
  end
  local room = usable and exclusive == 0 and own.shared - shared or 0
  local alone = usable and shared == 0 and own.exclusive - exclusive or 0
  domain.put('shared', name, room > 0 and room + later)
  domain.put('exclusive', name, alone > 0 and alone + later)
  local ends = domain.last_end(name, 'shared', shared)
  ends = math.max(ends, domain.last_end(name, 'exclusive', exclusive))
  if ends >= domain.NO_END then ends = domain.NO_END + shared + exclusive * domain.ALONE end
  domain.put('ends', name, usable and own.exclusive > 0 and ends)
  if own and own.exclusive > 1 then domain.put('ends:' .. own.exclusive, name, usable and ends) end
  return own
end

-- The numbers of exclusive slots that domains have, if several; nil: an older version has not told.
function domain.sizes()
  local text = redis.call('HGET', K.gate, 'sizes')
  if not text then return nil end
  local found = {}
  for size in string.gmatch(text, '%d+') do found[#found + 1] = tonumber(size) end
  return found
end

-- Among domains of as many exclusive slots, a domain is idle at no time any more.
local function leave_size(name)
  local before = domain.slots(name)
  if before then domain.put('ends:' .. before.exclusive, name, nil) end
end

-- Note a number of exclusive slots that a domain has.
local function note_size(size)
  local sizes = size > 1 and domain.sizes() or nil
  if not sizes then return end
  for _, known in ipairs(sizes) do
    if known == size then return end
  end
  sizes[#sizes + 1] = size
  table.sort(sizes)
  redis.call('HSET', K.gate, 'sizes', table.concat(sizes, ' '))
end

-- A domain has these slots from now on.
function domain.write(name, own)
  leave_size(name)
  redis.call('HSET', K.domains, name, cjson.encode(own))
  known_slots[name] = nil
  domain.index(name)
  note_size(own.exclusive)
end

-- It is no domain any more. What holds a slot there keeps it.
function domain.remove(name)
  leave_size(name)
  redis.call('HDEL', K.domains, name)
  known_slots[name] = nil
  domain.index(name)
end

-- When a domain is idle, as its holders have declared; nil: one of them has no limit.
function domain.ends(name)
  local score = tonumber(redis.call('ZSCORE', domain.key('ends'), name) or domain.NO_END)
  return score < domain.NO_END and score or nil
end

-- The limit by which the end of a job is planned; nil: it has none, or it is not known yet.
function domain.planned_limit(job)
  local limit = job.planned_limit or job.time_limit
  return limit ~= 0 and limit or nil
end

function domain.planned_end(job, since)
  local limit = domain.planned_limit(job)
  return limit and since + limit or domain.NO_END
end

-- `number`: of its slots. Answer: the slots of the domain.
function domain.enter(holder, name, isolation, ends, number)
  redis.call('HSET', domain.key('of'), holder, name)
  redis.call('ZADD', domain.key('held'), 0, holder)
  redis.call('ZADD', domain.key(isolation, name), ends, holder)
  for _, further in ipairs(slots.further(holder, number)) do
    redis.call('HSET', domain.key('of'), further, name)
    redis.call('ZADD', domain.key(isolation, name), ends, further)
  end
  return domain.index(name)
end

-- A further slot of a holder is free.
function domain.leave_further(further)
  local name = domain.of(further)
  if not name then return false end
  redis.call('HDEL', domain.key('of'), further)
  redis.call('ZREM', domain.key('exclusive', name), further)
  return name
end

-- Answer: the domain that the holder was in; nil: none. `number`: of its slots; nil: as many as it
-- has there.
function domain.leave(holder, number)
  local name = domain.of(holder)
  if not name then return nil end
  local at = 2
  while at <= (number or math.huge) do
    if not domain.leave_further(string.format('%s/%d', holder, at)) then break end
    at = at + 1
  end
  redis.call('HDEL', domain.key('of'), holder)
  redis.call('ZREM', domain.key('held'), holder)
  redis.call('ZREM', domain.key('shared', name), holder)
  redis.call('ZREM', domain.key('exclusive', name), holder)
  domain.index(name)
  return name
end

-- The last holder has left a domain without a node: it goes if a node came that it did not get.
function domain.give_place_back(name)
  if not domain.is_unbound(name) or domain.is_held(name) then return end
  local most = tonumber(redis.call('HGET', K.gate, 'scale') or 0)
  if redis.call('HLEN', K.domains) > most then domain.remove(name) end
end

-- An attempt began, or its limit is known now.
function domain.plan(job)
  local name = job.domain
  if not name then return end
  local key, ends = domain.key(job.isolation, name), domain.planned_end(job, job.started)
  local changed = redis.call('ZADD', key, 'XX', 'CH', ends, holder_of(job)) == 1
  for _, further in ipairs(slots.further(holder_of(job), slots.of_job(job))) do
    redis.call('ZADD', key, 'XX', ends, further)
  end
  if changed then domain.index(name) end
end

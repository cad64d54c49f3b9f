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

-- The planned end of an attempt without a limit. More holders without one make a domain later.
-- An exclusive one counts as more than all shared ones that a domain may have.
local domain = { NO_END = 10 ^ 12, ALONE = 10 ^ 5, NOWHERE_YET = '' }

function domain.key(what, name)
  return K.domains .. ':' .. what .. (name and ':' .. name or '')
end

-- Domain → its slots as read; false: it has none that are sound.
local known_slots = {}
function domain.slots(name)
  if known_slots[name] == nil then
    local own = decoded(redis.call('HGET', K.domains, name))
    local whole = own and type(own.shared) == 'number' and type(own.exclusive) == 'number'
    known_slots[name] = whole and own or false
  end
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

-- When the last of so many holders of an isolation ends, as its limit says.
function domain.last_end(name, isolation, number)
  if number == 0 then return 0 end
  local last = redis.call('ZRANGE', domain.key(isolation, name), -1, -1, 'WITHSCORES')
  return tonumber(last[2] or 0)
end

-- Note a capacity that holds from now on: domains, shared, exclusive, price?, rows; see accounting.
-- `raw`: the newest one, as it was written.
function domain.set_capacity(entry, raw)
  local before = decoded(raw)
  local at = math.max(math.floor(now * 1000000 + 0.5), before and tonumber(before.at) or 0)
  if before and tonumber(before.at) == at then redis.call('ZREM', K.capacity, raw) end
  entry.at = string.format('%.0f', at)
  local text = cjson.encode(entry)
  redis.call('ZADD', K.capacity, at, text)
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
  local raw = redis.pcall('HGET', K.usage, '#now')
  local current = decoded(raw)
  if not current or current.domains == total then return end
  current.domains = total
  pcall(domain.set_capacity, current, raw) -- a damaged key keeps no slot from being freed
end

-- More attempts of an isolation may have been adopted than it has slots: each is a share of them.
function domain.widen(isolation)
  local raw = redis.call('HGET', K.usage, '#now')
  local current = decoded(raw)
  if not current or (current.domains or 0) == 0 then return end
  local each = math.ceil(slots.used(isolation) / current.domains)
  if (current[isolation] or 0) < each then
    current[isolation] = each
    domain.set_capacity(current, raw)
  end
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

function domain.planned_end(job, since)
  return job.time_limit and since + job.time_limit or domain.NO_END
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

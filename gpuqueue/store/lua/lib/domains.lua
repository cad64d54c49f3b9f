-- Domains of a class: shared and exclusive jobs must not meet in one. Needs clock, records.
-- OF_NODES, the reasons of nodes, comes from model/reasons.py.
--
-- A class without an entry in K.domains is one domain, and has none of these keys.
--
--   K.domains            hash: domain → its slots (JSON: shared, exclusive)
--   …:of, …:held         hash: holder → its domain; zset of the same holders, to count them
--   …:shared, :exclusive zset: domain by how many slots a job of that isolation would find free
--   …:ends               zset: domain by the time at which it is idle; see domain.index
--   …:shared:NAME, …     zset: holder in a domain by its planned end
--
-- The last three kinds follow from the records of the holders, and are made again where they are
-- not whole: an older version frees a slot without them. A holder whose domain is not known yet is
-- in the one without a name: it may be anywhere.

-- The planned end of an attempt without a limit. More holders without one make a domain later.
-- An exclusive one counts as more than all shared ones that a domain may have.
local domain = { NO_END = 10 ^ 12, ALONE = 10 ^ 5, NOWHERE_YET = '' }

function domain.key(what, name)
  return K.domains .. ':' .. what .. (name and ':' .. name or '')
end

function domain.slots(name)
  local _, slots = pcall(cjson.decode, redis.call('HGET', K.domains, name) or '')
  if type(slots) ~= 'table' then return nil end
  local whole = type(slots.shared) == 'number' and type(slots.exclusive) == 'number'
  return whole and slots or nil
end

function domain.of(holder)
  return redis.call('HGET', domain.key('of'), holder)
end

function domain.holders(name, isolation)
  return redis.call('ZCARD', domain.key(isolation, name))
end

function domain.put(what, name, score)
  if score then
    redis.call('ZADD', domain.key(what), score, name)
  else
    redis.call('ZREM', domain.key(what), name)
  end
end

-- When the last holder of an isolation ends, as its limit says.
function domain.last_end(name, isolation)
  local last = redis.call('ZRANGE', domain.key(isolation, name), -1, -1, 'WITHSCORES')
  return tonumber(last[2] or 0)
end

function domain.index(name)
  if name == domain.NOWHERE_YET then return end
  local slots = domain.slots(name)
  local shared, exclusive = domain.holders(name, 'shared'), domain.holders(name, 'exclusive')
  local room = slots and exclusive == 0 and slots.shared - shared or 0
  local alone = slots and shared == 0 and slots.exclusive - exclusive or 0
  domain.put('shared', name, room > 0 and room)
  domain.put('exclusive', name, alone > 0 and alone)
  local ends = math.max(domain.last_end(name, 'shared'), domain.last_end(name, 'exclusive'))
  if ends >= domain.NO_END then ends = domain.NO_END + shared + exclusive * domain.ALONE end
  domain.put('ends', name, slots and slots.exclusive > 0 and ends)
end

-- When a domain is idle, as its holders have declared; nil: one of them has no limit.
function domain.ends(name)
  local score = tonumber(redis.call('ZSCORE', domain.key('ends'), name) or domain.NO_END)
  return score < domain.NO_END and score or nil
end

function domain.planned_end(job, since)
  return job.time_limit and since + job.time_limit or domain.NO_END
end

function domain.enter(holder, name, isolation, ends)
  redis.call('HSET', domain.key('of'), holder, name)
  redis.call('ZADD', domain.key('held'), 0, holder)
  redis.call('ZADD', domain.key(isolation, name), ends, holder)
  domain.index(name)
end

-- Answer: the domain that the holder was in; nil: none.
function domain.leave(holder)
  local name = domain.of(holder)
  if not name then return nil end
  redis.call('HDEL', domain.key('of'), holder)
  redis.call('ZREM', domain.key('held'), holder)
  redis.call('ZREM', domain.key('shared', name), holder)
  redis.call('ZREM', domain.key('exclusive', name), holder)
  domain.index(name)
  return name
end

-- An attempt began, or its limit is known now.
function domain.plan(job)
  local name = job.domain
  if not name then return end
  local key, ends = domain.key(job.isolation, name), domain.planned_end(job, job.started)
  if redis.call('ZADD', key, 'XX', 'CH', ends, holder_of(job)) == 1 then domain.index(name) end
end

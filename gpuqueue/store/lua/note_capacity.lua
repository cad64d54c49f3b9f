-- note_capacity: note what a class has, from now on, and what its slots cost. Archive the rows of
-- past days, and forget the oldest entries. Of one dispatcher at a time: the leader.
-- Context:
--   domains: how many domains the class has; absent: its nodes, which the state knows
--   shared, exclusive: the slots of one domain
--   price?: of one domain for an hour, in millionths, as text
--   rows: how many rows of one day are kept before tasks become 'other'; twice as many, before
--     tenants do
--   history, capacities: how many entries are kept, and how many changes of the capacity
--   days: for how many days the rows are kept by day
--   run_times: for how many seconds the run times of a task are kept that has not run since
--   absent: seconds without a call after which a class without holders was not there meanwhile
-- Answer: 1 if the capacity has changed, else 0
--! clock counts records slots domains accounting
local DAY, OTHER = 86400000000, 'other'
local today = math.floor(micros(now) / DAY)
-- How many days, or entries, one call forgets at most.
local FORGOTTEN_DAYS, FORGOTTEN_ENTRIES = 8, 500
-- Seconds between two notes that the class is there.
local SEEN_EACH = 60

local function day_key(day)
  return K.usage .. ':' .. day
end

-- Add a row to those of a key.
local function merge(key, name, text)
  local before = redis.call('HGET', key, name)
  local row = decoded(before) or {}
  for terms, sums in pairs(decoded(text) or {}) do
    if type(sums) == 'table' and #sums == 3 then accounting.add_to(row, terms, unpack(sums)) end
  end
  redis.call('HSET', key, name, cjson.encode(row))
end

-- The first day that is kept by itself.
local function note_oldest(day)
  local known = tonumber(redis.call('HGET', K.usage, '#oldest'))
  if not known or day < known then redis.call('HSET', K.usage, '#oldest', day) end
end

local function archive()
  local found, rows, oldest = redis.call('HGETALL', K.usage), 0, nil
  for i = 1, #found, 2 do
    local name = decoded(found[i])
    local day = name and #name == 6 and tonumber(name[1])
    if day and day < today then
      merge(day_key(day), found[i], found[i + 1])
      redis.call('HDEL', K.usage, found[i])
      oldest = math.min(oldest or day, day)
    elseif day then
      rows = rows + 1
    end
  end
  redis.call('HDEL', K.usage, '#late')
  redis.call('HSET', K.usage, '#day', today, '#rows', rows)
  redis.call('HINCRBY', K.usage, '#archived', 1)
  if oldest then note_oldest(oldest) end
  for i = 1, #found, 2 do accounting.end_open(found[i], today * DAY) end
end

-- Days that are too old become part of one row for each isolation and reason.
local function forget_days()
  local oldest = tonumber(redis.call('HGET', K.usage, '#oldest'))
  local until_day = oldest and math.min(today - context.days, oldest + FORGOTTEN_DAYS)
  if not oldest or until_day <= oldest then return end
  for day = oldest, until_day - 1 do
    local key = day_key(day)
    local found = redis.call('HGETALL', key)
    for i = 1, #found, 2 do
      local name = decoded(found[i])
      if name then
        name[1], name[2], name[3] = 0, OTHER, OTHER
        merge(day_key('older'), cjson.encode(name), found[i + 1])
      elseif found[i] == '#had' then
        merge(day_key('older'), '#had', found[i + 1])
      end
    end
    redis.call('DEL', key)
  end
  redis.call('HSET', K.usage, '#oldest', until_day)
  redis.call('HINCRBY', K.usage, '#archived', 1)
end

-- `key`: a sorted set by time. Answer: the last score that was forgotten.
local function forget_above(key, most)
  local over = math.min(redis.call('ZCARD', key) - most, FORGOTTEN_ENTRIES)
  if over <= 0 then return nil end
  local old = redis.call('ZRANGE', key, 0, over - 1, 'WITHSCORES')
  for i = 1, #old, 2 do redis.call('ZREM', key, old[i]) end
  return old[#old]
end

-- Add what the class had from one capacity to the next to the sums of its days.
local function sum_up(capacity, from, to)
  note_oldest(math.floor(from / DAY))
  while from < to do
    local day = math.floor(from / DAY)
    local length = math.min(to, (day + 1) * DAY) - from
    local sums = { '0', digits(length * capacity.domains), '0' }
    merge(day_key(day), '#had', cjson.encode({ [capacity.price or '-'] = sums }))
    from = from + length
  end
end

-- The oldest capacities become sums: nodes come and go all the time.
local function forget_capacities()
  local over = redis.call('ZCARD', K.capacity) - context.capacities
  if over <= 0 then return end
  local old = redis.call('ZRANGE', K.capacity, 0, math.min(over, FORGOTTEN_ENTRIES), 'WITHSCORES')
  redis.call('HSETNX', K.usage, '#began', old[2])
  for i = 1, #old - 2, 2 do
    local each = decoded(old[i])
    if each then sum_up(each, tonumber(old[i + 1]), tonumber(old[i + 3])) end
    redis.call('ZREM', K.capacity, old[i])
  end
  redis.call('HINCRBY', K.usage, '#archived', 1)
end

local held = slots.in_use()
local known = redis.call('HMGET', K.usage, '#now', '#seen', '#day', '#late')
local current, seen = decoded(known[1]), tonumber(known[2])

-- No dispatcher was there for long, and nothing ran: the class had nothing meanwhile.
local away = seen and micros(now) - seen > context.absent * 1000000
if current and away and held.shared + held.exclusive == 0 then
  local last = tonumber(redis.call('ZRANGE', K.history, -1, -1, 'WITHSCORES')[2]) or 0
  -- Its nodes may have been listed already, before this call.
  local back = tonumber(current.at) > seen + SEEN_EACH * 1000000
  local at = math.max(seen, last, back and 0 or tonumber(current.at))
  local none = { at = digits(at), domains = 0, shared = 0, exclusive = 0 }
  redis.call('ZREMRANGEBYSCORE', K.capacity, at, at)
  local text = cjson.encode(none)
  redis.call('ZADD', K.capacity, at, text)
  if not back then current = none end
end
if not seen or math.abs(micros(now) - seen) >= SEEN_EACH * 1000000 then
  redis.call('HSET', K.usage, '#seen', digits(micros(now)))
end

local wanted = { domains = context.domains, price = context.price, rows = context.rows }
-- What runs on a node that is not known yet counts as one.
local least = held.shared + held.exclusive > 0 and 1 or 0
if not wanted.domains then wanted.domains = math.max(least, domain.total()) end
-- Where slots were taken away, what still runs has its share.
wanted.shared, wanted.exclusive = context.shared, context.exclusive
domain.fit(wanted, held)
-- What was noted while the clock of Redis was ahead holds from now on, not from then.
local changed = not current or tonumber(current.at) > micros(now)
for _, field in ipairs({ 'domains', 'shared', 'exclusive', 'price', 'rows' }) do
  if current and current[field] ~= wanted[field] then changed = true end
end
if changed then domain.set_capacity(wanted) end

if tonumber(known[3]) ~= today or known[4] then archive() end
forget_days()
forget_capacities()
local before = now - context.run_times
local most = FORGOTTEN_ENTRIES
accounting.forget_runs(
  redis.call('ZRANGE', K.run_times_last, '-inf', before, 'BYSCORE', 'LIMIT', 0, most)
)
local forgotten = forget_above(K.history, context.history)
if forgotten then redis.call('HSET', K.usage, '#forgotten', forgotten) end
return changed and 1 or 0

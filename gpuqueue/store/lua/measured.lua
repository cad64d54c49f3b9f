-- measured: measure a class for /metrics. Reads only.
-- Answer: {waiting shared, waiting exclusive, age in seconds of the oldest of each (text),
--          holders shared, holders exclusive, delayed, finishing, {field, number, ...} of counts,
--          {name, entry (JSON), ...} of places, pods without a job, {[tenant, isolation, reason]
--          (JSON), seconds of GPUs (text)...}, exclusive slots in use beyond one for each holder,
--          slots that the first exclusive job in line needs (0: none waits)}
--! clock counts records slots tenants tenant_lines tenant_turns line
local PRIORITIES = 10

-- Within a priority, the first in line has waited longest.
local function longest(key)
  local most, rank = 0, '-inf'
  for _ = 1, PRIORITIES do
    local first = redis.call('ZRANGEBYSCORE', key, rank, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not first[1] then break end
    local job = load(first[1])
    if job then most = math.max(most, now - in_line_since(job)) end
    rank = string.format('%.0f', (math.floor(tonumber(first[2]) / ARRIVALS) + 1) * ARRIVALS)
  end
  return string.format('%.3f', most)
end

-- A key of another type measures nothing.
local function read(key)
  local found = redis.pcall('HGETALL', key)
  return found.err and {} or found
end

-- What attempts have used, by tenant: see lib/accounting.lua. The rows of today have longer names.
local function used()
  local found, totals = read(K.usage), {}
  for i = 1, #found, 2 do
    local name = decoded(found[i])
    if name and #name == 3 then
      totals[#totals + 1], totals[#totals + 2] = found[i], found[i + 1]
    end
  end
  return totals
end

-- How many slots the first exclusive job in line needs; 0: none waits.
local function needed()
  local first = tenancy.on() and tenancy.first('exclusive')
    or redis.call('ZRANGE', K.waiting_exclusive, 0, 0)[1]
  return first and slots.of_job(load(first)) or 0
end

return {
  redis.call('ZCARD', K.waiting_shared),
  redis.call('ZCARD', K.waiting_exclusive),
  longest(K.waiting_shared),
  longest(K.waiting_exclusive),
  redis.call('ZCARD', K.holders_shared),
  redis.call('ZCARD', K.holders_exclusive),
  redis.call('ZCARD', K.delayed),
  redis.call('ZCARD', K.finishing),
  read(K.counts),
  read(K.places),
  redis.call('ZCARD', K.warm_until),
  used(),
  slots.beyond(),
  needed(),
}

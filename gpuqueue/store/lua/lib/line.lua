-- The line of waiting jobs: by priority (0 before 9), then by arrival. Needs clock, records,
-- slots, tenants.
-- The first arrival of a delivery is kept in its record: a new attempt takes the same place.

local DOMAIN = '*:' -- prefix of fields of K.gate: the whole class is one domain

local function arrival_of(rank)
  return rank % ARRIVALS
end

-- The next arrival. A damaged counter starts again above all arrivals: none comes each millisecond.
local function next_arrival()
  local next = redis.pcall('HINCRBY', K.gate, 'seq', 1)
  if type(next) == 'number' then return next end
  local above = math.floor(now * 1000)
  redis.call('HSET', K.gate, 'seq', string.format('%.0f', above))
  return above
end

local function take_place(job)
  slots.meet(job)
  job.arrival = job.arrival or next_arrival()
  job.state = 'waiting'
  job.wait, job.detail = nil, nil
  -- No exclusive job waited until now, so none was overtaken.
  if job.isolation == 'exclusive' and redis.call('ZCARD', K.waiting_exclusive) == 0 then
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', 0)
  end
  local rank = (job.priority or 0) * ARRIVALS + job.arrival
  redis.call('ZADD', K['waiting_' .. job.isolation], rank, job.delivery)
  tenancy.enter(job)
end

-- Put a job aside until its eta. Among jobs of one eta the first accepted comes first: its score is
-- lower by one step (in seconds, the smallest that a double holds). Jobs of one eta beyond
-- MOST_AT_ONCE are in no order.
local STEP, MOST_AT_ONCE = 5e-7, 100000
local function delay(job)
  job.state = 'delayed'
  local last = string.format('(%.17g', job.eta + STEP * MOST_AT_ONCE)
  local before = redis.call('ZCOUNT', K.delayed, job.eta, last)
  local score = job.eta + STEP * math.min(before, MOST_AT_ONCE)
  redis.call('ZADD', K.delayed, score, job.delivery)
  tenancy.aside(job)
end

local function enter_line(job)
  if job.state == 'accepted' then redis.call('ZREM', K.accepted, job.delivery) end
  if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
  if job.eta and job.eta > now then
    delay(job)
  else
    take_place(job)
  end
  save(job)
end

-- When the watcher must move a job next (nil: it need not).
local function due_of(job)
  local eta = job.eta and job.eta > now and job.eta
  return eta and job.expires and math.min(eta, job.expires) or eta or job.expires
end

-- When the watcher must move a job or stop an attempt next (nil: nothing waits for a time). Also as
-- Redis wrote the number.
local function next_due()
  local soonest, text
  for _, key in ipairs({ K.delayed, K.expiring, K.deadlines }) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if first and (not soonest or tonumber(first) < soonest) then
      soonest, text = tonumber(first), first
    end
  end
  return soonest, text
end

-- A job of which a key has lost the name: back to where its state says. Nothing changes otherwise.
local function put_back(job)
  if job.state == 'waiting' then
    if redis.call('ZSCORE', K['waiting_' .. job.isolation], job.delivery) then return end
    take_place(job)
    save(job)
  elseif job.state == 'accepted' or job.state == 'delayed' or job.state == 'finishing' then
    redis.call('ZADD', K[job.state], 'NX', now, job.delivery)
    if job.state == 'delayed' then tenancy.aside(job) end
  end
end

-- `starts`: it becomes a holder next.
local function leave_line(job, starts)
  if job.state ~= 'waiting' then redis.call('ZREM', K.accepted, job.delivery) end
  redis.call('ZREM', K.delayed, job.delivery)
  redis.call('ZREM', K['waiting_' .. job.isolation], job.delivery)
  if job.expires then redis.call('ZREM', K.expiring, job.delivery) end
  tenancy.leave(job, starts)
end

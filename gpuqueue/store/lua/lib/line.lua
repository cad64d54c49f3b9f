-- The line of waiting jobs: by priority (0 before 9), then by arrival. Needs clock, records.

local DOMAIN = '*:' -- prefix of fields of K.gate: the whole class is one domain
local ARRIVALS = 2 ^ 45 -- a rank is priority * ARRIVALS + arrival; both stay exact in a double

local function arrival_of(rank)
  return rank % ARRIVALS
end

local function take_place(job)
  local arrival = redis.call('HINCRBY', K.gate, 'seq', 1)
  job.state = 'waiting'
  -- No exclusive job waited until now, so none was overtaken.
  if job.isolation == 'exclusive' and redis.call('ZCARD', K.waiting_exclusive) == 0 then
    redis.call('HSET', K.gate, DOMAIN .. 'bypassed', 0)
  end
  local rank = (job.priority or 0) * ARRIVALS + arrival
  redis.call('ZADD', K['waiting_' .. job.isolation], rank, job.delivery)
end

local function enter_line(job)
  redis.call('ZREM', K.accepted, job.delivery)
  if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
  if job.eta and job.eta > now then
    job.state = 'delayed'
    redis.call('ZADD', K.delayed, job.eta, job.delivery)
  else
    take_place(job)
  end
  save(job)
end

local function leave_line(job)
  redis.call('ZREM', K.accepted, job.delivery)
  redis.call('ZREM', K.delayed, job.delivery)
  redis.call('ZREM', K['waiting_' .. job.isolation], job.delivery)
  redis.call('ZREM', K.expiring, job.delivery)
end

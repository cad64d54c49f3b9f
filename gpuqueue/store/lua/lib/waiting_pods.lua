-- Pods that wait for a job: each holds a share of a GPU that no job has, and no slot. Needs clock,
-- records, attempts, places, warm.

-- Seconds that a pod has to claim the job that it is given, and after its last second in which it
-- leaves by itself.
local CLAIMS_WITHIN, LEAVES_WITHIN = 20, 30
-- How many of them one decision looks at.
local MOST_LOOKED_AT = 64

local function forget_waiting(instance)
  redis.call('HDEL', K.warm, instance)
  redis.call('ZREM', K.warm_until, instance)
end

-- It looks at once what it is told: a job, or nothing, so that it leaves.
local function ring(instance)
  forget_waiting(instance)
  local bell = K.warm .. ':' .. instance
  redis.call('RPUSH', bell, '')
  redis.call('EXPIRE', bell, 60)
end

local function waiting_pod(instance)
  local decoded, pod = pcall(cjson.decode, redis.call('HGET', K.warm, instance) or '')
  return decoded and type(pod) == 'table' and type(pod.last) == 'string' and pod or nil
end

-- How many pods of the class can run at once.
local function shares_of(spec)
  return math.max(spec.shared_slots, spec.exclusive_slots)
end

local function shares_in_use()
  return redis.call('ZCARD', K.holders_shared)
    + redis.call('ZCARD', K.holders_exclusive)
    + redis.call('ZCARD', K.warm_until)
end

-- Pods go, the one that would have gone first at first, until each job has its share.
local function free_shares(spec)
  local over = shares_in_use() - shares_of(spec)
  if over <= 0 then return end
  for _, each in ipairs(redis.call('ZRANGE', K.warm_until, 0, over - 1)) do ring(each) end
end

-- Give a job that has a slot to a pod that waits, in place of a launch. Answer: whether one has it.
local function wake_pod(job, spec)
  if not job.warm or job.container or job.probes then return false end
  local newest = redis.call('ZREVRANGE', K.warm_until, 0, MOST_LOOKED_AT - 1)
  for _, instance in ipairs(newest) do
    local pod = waiting_pod(instance)
    local own = pod and pod.site == (spec.owner or '')
    local terms = own and terms_of(pod.site, pod.application, pod.settings)
    local before = terms and load(delivery_of(pod.last) or '')
    local ran_it = before and holder_of(before) == pod.last
    local first = ran_it and first_of(before)
    if not first then
      ring(instance) -- nothing starts such a pod any more, or what it has run is forgotten
    elseif suits(job, pod) then
      follow(job, before)
      name_last(job, before, first)
      job.instance, job.launched, job.node, job.pod = instance, now, pod.node, pod.name
      redis.call('ZREM', K.launching, holder_of(job))
      redis.call('ZADD', K.deadlines, now + CLAIMS_WITHIN, holder_of(job))
      save(job)
      ring(instance)
      return true
    end
  end
  return false
end

-- Pods that wait for a job: each holds a share of a GPU that no job has, and no slot. Those of
-- several GPUs do not wait. Needs clock, records, slots, domains, attempts, places, warm.

-- Seconds that a pod has to claim the job that it is given, and after its last second in which it
-- leaves by itself.
local CLAIMS_WITHIN, LEAVES_WITHIN = 20, 30
-- Seconds without a sign of life after which a pod is given no job: its node may be away.
local SILENT = 10
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
  redis.call('ZADD', bell, now, '') -- no list: who may block on lists may take messages
  redis.call('EXPIRE', bell, 60)
end

-- Field of such a pod -> the types that it may have.
local POD = {
  last = 'string',
  site = 'string',
  application = 'string',
  name = 'string',
  node = 'string nil',
  longest = 'number nil',
  seen = 'number nil',
}

-- What a pod can run, and what it has run; nil: it does not wait, or its entry is damaged.
local function waiting_pod(instance)
  local pod = decoded(redis.call('HGET', K.warm, instance))
  if not pod then return nil end
  for field, kinds in pairs(POD) do
    if not string.find(kinds, type(pod[field])) then return nil end
  end
  return pod
end

-- How many pods of the class can run at once.
local function shares_of(spec)
  if spec.domain then return tonumber(redis.call('HGET', K.gate, 'shares')) or 0 end
  return math.max(spec.shared_slots, spec.exclusive_slots)
end

local function shares_in_use()
  return slots.used('shared') + slots.used('exclusive') + redis.call('ZCARD', K.warm_until)
end

-- Pods go, the one that would have gone first at first, until each job has its share.
local function free_shares(spec)
  local over = shares_in_use() - shares_of(spec)
  if over <= 0 then return end
  for _, each in ipairs(redis.call('ZRANGE', K.warm_until, 0, over - 1)) do ring(each) end
end

-- Pods that must not meet a job on its node leave it: the cluster would keep the job's pod away.
function domain.leave_node(job)
  for _, instance in ipairs(redis.call('ZRANGE', K.warm_until, 0, MOST_LOOKED_AT - 1)) do
    local pod = waiting_pod(instance)
    local apart = pod and (pod.isolation ~= job.isolation or job.isolation == 'exclusive')
    if apart and pod.node == job.domain then ring(instance) end
  end
end

-- A job has got a slot, and its pod needs room.
local function make_way(job, spec)
  -- Most classes have no such pod, and those of a host have none.
  if spec.host or redis.call('ZCARD', K.warm_until) == 0 then return end
  if spec.domain == 'node' then domain.leave_node(job) end
  free_shares(spec)
end

-- The jobs that a pod ran last and first; nil: its end could not be told to be that of a job which
-- it is given, it is silent, or nothing starts such a pod any more.
local function known_to_run(pod)
  if now - (pod.seen or now) >= SILENT then return nil end
  local before = load(delivery_of(pod.last) or '')
  local ran_it = before and before.attempt == attempt_of(pod.last)
  local first = ran_it and first_of(before)
  if first and terms_of(pod.site, pod.application, pod.settings) then return before, first end
end

-- Give a job that has a slot to a pod that waits, in place of a launch. Answer: whether one has it.
local function wake_pod(job, spec)
  if spec.host or not job.warm or job.probes then return false end
  local found = redis.call('ZRANGE', K.warm_until, -MOST_LOOKED_AT, -1)
  for i = #found, 1, -1 do -- the newest first
    local instance = found[i]
    local pod = waiting_pod(instance)
    if not pod then
      ring(instance)
    elseif
      pod.site == (spec.owner or '')
      and suits(job, pod)
      and not node_aside(pod.node)
      and (not job.domain or pod.node == job.domain)
    then
      ring(instance)
      local before, first = known_to_run(pod)
      if before then
        follow(job, before)
        name_last(job, before, first)
        job.instance, job.launched, job.node, job.pod = instance, now, pod.node, pod.name
        redis.call('ZREM', K.launching, holder_of(job))
        redis.call('ZADD', K.deadlines, now + CLAIMS_WITHIN, holder_of(job))
        save(job)
        return true
      end
    end
  end
  return false
end

-- Attempts: the instance that runs one, and the fields that a record loses between two of them.
-- OF_ATTEMPT, the fields of one attempt, comes from model/record.py. Needs clock, records, domains.

-- How many nodes a job keeps away from.
local AVOIDED = 5

-- A Job's instance is a prefix of its pod's ('ns/job', 'ns/job/uid'). Each process has its own.
local function same_instance(one, other)
  if #one > #other then one, other = other, one end
  return one == other or string.sub(other, 1, #one + 1) == one .. '/'
end

-- The time limit of a job: the one that the task itself declares, if any, cut to the largest of its
-- class.
local function limit_of(job, declared)
  if not declared then return job.time_limit end
  return math.min(declared, job.max_time_limit or math.huge)
end

-- Its executor runs the attempt. `process`: instance, worker, started, time_limit if the task
-- itself declares one, loads_within until it has loaded the application, and if_lost and earlier
-- afterwards.
local function begin(job, process)
  local holder = holder_of(job)
  job.state = 'running'
  job.instance, job.worker, job.started = process.instance, process.worker, process.started
  job.time_limit, job.if_lost = limit_of(job, process.time_limit), process.if_lost
  if process.loaded then job.planned_limit = nil end
  job.earlier = process.earlier
  redis.call('ZREM', K.launching, holder)
  -- The import of the application may hang, and only the application knows the limits of its task.
  local seconds = math.min(job.time_limit or math.huge, process.loads_within or math.huge)
  if seconds < math.huge then
    redis.call('ZADD', K.deadlines, job.started + seconds, holder)
  else
    redis.call('ZREM', K.deadlines, holder)
  end
  -- An executor with a shorter limit does not report that it has loaded the application.
  local reports = process.loads_within and seconds < (job.time_limit or math.huge)
  job.loading = reports and 1 or nil
  domain.plan(job)
end

-- Whether another process has claimed the attempt than the one that shows its token. `process`: as
-- it claimed; an older executor does not send it.
local function is_another(job, process)
  local known = process and job.state ~= 'launching' and job.instance
  return known and not same_instance(known, process.instance)
end

-- Make the claim of an attempt again if Redis came back with a state from before it. Its process
-- had claimed in time: what was decided about an attempt that does not start is void.
local function recall(job, process)
  if job.state == 'launching' then
    local since = job.launched or job.admitted
    begin(job, process or { instance = job.instance, worker = job.worker, started = since })
    job.timed_out, job.doomed, job.doom_error, job.doom_tried = nil, nil, nil, nil
    if not job.cancel then redis.call('ZREM', K.stopping, holder_of(job)) end
  elseif job.state == 'running' and not job.timed_out and process then
    if job.adopted or process.loaded then begin(job, process) end
  end
end

local function forget_attempt(job)
  for _, field in ipairs(OF_ATTEMPT) do job[field] = nil end
end

local function keep_away(job, node)
  local avoided = { node }
  for _, other in ipairs(job.avoid or {}) do
    if other ~= node and #avoided < AVOIDED then avoided[#avoided + 1] = other end
  end
  job.avoid = avoided
end

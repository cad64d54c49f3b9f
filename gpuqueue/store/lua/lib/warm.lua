-- An instance that runs several attempts, one after the other. Needs clock, records, domains,
-- bounds.

-- The record of its first attempt, which names the last one; nil: it is forgotten.
local function first_of(job)
  if not job.warm_of then return job end
  local first = load(delivery_of(job.warm_of) or '')
  return first and first.attempt == attempt_of(job.warm_of) and first or nil
end

-- How many attempts its process may run: the least that one of its jobs allows.
local function most_of(job)
  return job.warm_most or job.reuse or 0
end

-- Which of its attempts follows this one.
local function turn_after(job)
  return (job.warm_turn or 1) + 1
end

-- How many attempts its process has run with the next one.
local function runs_of_process(job)
  return (job.reused or 1) + 1
end

-- It goes on to a job from the attempt before. `reuses`: in the same process.
local function follow(job, before, reuses)
  local name = holder_of(before)
  job.warm_of, job.warm_after = before.warm_of or name, name
  job.warm_turn = turn_after(before)
  if reuses then
    job.warm_most, job.reused = math.min(job.reuse or 0, most_of(before)), runs_of_process(before)
  end
end

-- Let the records of earlier attempts name its last one.
local function name_last(job, ...)
  for _, each in ipairs({ ... }) do
    -- The number of an attempt that ended otherwise may be given again here.
    if each.delivery ~= job.delivery then
      each.warm_last = holder_of(job)
      save(each)
    end
  end
end

-- The job of an attempt, if it is the latest one; nil: it is not. What happens to an instance that
-- has gone on, happens to its last attempt.
local function current_job(asked)
  local job = load(asked.delivery)
  if not is_current(job, asked) then return nil end
  if not job.warm_last then return job end
  local last = load(delivery_of(job.warm_last) or '')
  return last and holder_of(last) == job.warm_last and last or nil
end

-- What the dispatchers of a site admit by; nil: none of them lives, or they start other instances.
local function terms_of(site, application, settings)
  local terms = decoded(redis.call('HGET', K.terms, site))
  if not terms or type(terms.spec) ~= 'table' then return nil end
  local lives = type(terms['until']) == 'number' and now < terms['until']
  local same = (terms.spec.application or '') == application
    and (terms.settings or '') == (settings or '')
  if not (lives and same) then return nil end
  bounds.follow(terms.spec)
  return terms
end

-- Whether an instance can run a job. `instance`: isolation, tenant, image and GPUs of what it has
-- run; node?; longest?, the time limit beyond which something else would end it.
local function suits(job, instance)
  for _, field in ipairs({ 'isolation', 'tenant', 'image', 'gpus' }) do
    if job[field] ~= instance[field] then return false end
  end
  if job.container then return false end
  local limit = domain.planned_limit(job)
    or job.planned_limit and job.max_time_limit -- its task may declare any up to that
    or math.huge
  if instance.longest and limit > instance.longest then return false end
  for _, name in ipairs(job.avoid or {}) do
    if name == instance.node then return false end
  end
  return true
end

-- An instance that runs several attempts, one after the other. Needs records.

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

-- It goes on to a job from the attempt before. `reuses`: in the same process.
local function follow(job, before, reuses)
  local name = holder_of(before)
  job.warm_of, job.warm_after = before.warm_of or name, name
  job.warm_turn = turn_after(before)
  if reuses then job.warm_most = math.min(job.reuse or 0, most_of(before)) end
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

-- Attempts: the instance that runs one, and the fields that a record loses between two of them.
-- OF_ATTEMPT, the fields of one attempt, comes from model/record.py.

-- How many nodes a job keeps away from.
local AVOIDED = 5

-- A Job's instance is a prefix of its pod's ('ns/job', 'ns/job/uid'). Each process has its own.
local function same_instance(one, other)
  if #one > #other then one, other = other, one end
  return one == other or string.sub(other, 1, #one + 1) == one .. '/'
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

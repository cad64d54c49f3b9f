-- Counts for /metrics of what has happened: they only grow. BOUNDS comes from counts.py. A damaged
-- count stays as it is, and keeps no job from its way.

local function count(what, job, reason)
  local field = what .. ':' .. job.isolation .. (reason and ':' .. reason or '')
  redis.pcall('HINCRBY', K.counts, field, 1)
end

-- Add one duration (s) to the smallest bucket that holds it.
local function note_seconds(what, job, seconds)
  local bucket = 'inf'
  for _, bound in ipairs(BOUNDS) do
    if seconds <= bound then
      bucket = tostring(bound)
      break
    end
  end
  local field = what .. ':' .. job.isolation
  redis.pcall('HINCRBY', K.counts, field .. ':' .. bucket, 1)
  local total = string.format('%.3f', math.max(0, seconds))
  redis.pcall('HINCRBYFLOAT', K.counts, field .. ':sum', total)
end

-- Since when a job could have started, had a slot been free.
local function in_line_since(job)
  return math.max(job.created or 0, job.eta or 0)
end

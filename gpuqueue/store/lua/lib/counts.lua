-- Counts of what has happened, for /metrics: they only grow. BOUNDS comes from counts.py.

local function count(what, job, reason)
  redis.call('HINCRBY', K.counts, what .. ':' .. job.isolation .. (reason and ':' .. reason or ''), 1)
end

-- One more duration (s), in the smallest bucket that holds it.
local function note_seconds(what, job, seconds)
  local bucket = 'inf'
  for _, bound in ipairs(BOUNDS) do
    if seconds <= bound then
      bucket = tostring(bound)
      break
    end
  end
  redis.call('HINCRBY', K.counts, what .. ':' .. job.isolation .. ':' .. bucket, 1)
  redis.call('HINCRBYFLOAT', K.counts, what .. ':' .. job.isolation .. ':sum', string.format('%.3f', math.max(0, seconds)))
end

-- Since when a job could have started, if a slot had been free.
local function in_line_since(job)
  return math.max(job.created or 0, job.eta or 0)
end

-- Jobs that have waited for a hold for too long. Needs clock, counts, records, line, place, holds.

-- Until when a job waits for a hold.
local function waits_until(job, entry, spec)
  if not spec.held_timeout then return math.huge end
  -- Its pauses have replaced the time from which it waits.
  return math.max(entry.since or entry.last, job.held or in_line_since(job)) + spec.held_timeout
end

-- Whether a job has waited for a hold for as long as jobs of the class may.
local function outlasts(job, entry, spec)
  return now >= waits_until(job, entry, spec)
end

-- End a job that has waited for a hold for too long.
local function end_held(job, name, spec)
  local kind, entry = place_kind(name), place_entry(name)
  local what = kind == 'image' and 'its image' or 'its class'
  job.error = string.format('%s was held for %d s: %s', what, spec.held_timeout, entry.error or '')
  leave_line(job)
  hand_to_finish(job, HOLD_ENDS[kind])
end

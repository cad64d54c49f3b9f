-- clear_place: use a place again at once, as if it had never failed.
-- Context:
--   place: its name
-- Answer: 1 if it was known, else 0
--! clock records place holds places
local entry = place_entry(context.place)
if not entry then return 0 end
-- The jobs that failed there come back into line before the later ones. A job has a finisher in the
-- state finishing alone.
for _, met in pairs(entry.jobs) do
  local job = load(met[1])
  if job and job.state == 'delayed' and job.wait then
    job.eta = now
    redis.call('ZADD', K.delayed, now, job.delivery)
    save(job)
  elseif job and job.finisher == '' then
    redis.call('ZADD', K.finishing, now, job.delivery)
  end
end
forget_place(context.place)
return 1

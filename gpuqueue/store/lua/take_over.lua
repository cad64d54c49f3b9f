-- take_over: the attempts of an owner are those of another one from now on.
-- Context:
--   owner: the name of the cluster whose attempts they are
--   by: that of the cluster whose dispatchers look after them from now on
-- Answer: how many slots they hold
--! clock records slots
local taken = 0
for _, key in ipairs({ K.holders_shared, K.holders_exclusive }) do
  for _, holder in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local job = load(delivery_of(holder) or '')
    if job and job.owner == context.owner and holder_of(job) == holder then
      job.owner = context.by
      save(job)
      taken = taken + slots.of_job(job)
    end
  end
end
return taken

-- finished: the finisher has written everything.
-- ARGV: delivery, finisher, reason, now (s), keep (s)
-- Answer: 1 if this ended the job, else 0
--! counts records tombstones
local job = load(ARGV[1])
if not job or job.state ~= 'finishing' or job.finisher ~= ARGV[2] then return 0 end
entomb(job, ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
return 1

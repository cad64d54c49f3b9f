-- reported: the executor has written everything. The slot stays its holder's until the process is gone.
-- ARGV: delivery, attempt, token, now (s), keep (s)
-- Answer: 1 if this ended the job, else 0
--! records
local job = load(ARGV[1])
if not job or job.state ~= 'reporting' or job.attempt ~= tonumber(ARGV[2]) or job.token ~= ARGV[3] then return 0 end
entomb(job, job.outcome, tonumber(ARGV[4]), tonumber(ARGV[5]))
return 1

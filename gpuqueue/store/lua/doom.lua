-- doom: a clock of the attempt ran out. Why is kept here before its Job is deleted, so that whoever sees the end knows.
-- ARGV: delivery, attempt, reason, error, tried ('always' | 'unstarted' | 'never': as in release)
-- Answer: 1 if the attempt is given up (also when it was already), else 0: it runs, or it is not current
--! records
local job = load(ARGV[1])
if not job or job.attempt ~= tonumber(ARGV[2]) or job.state ~= 'launching' then return 0 end
if not job.doomed then
  job.doomed, job.doom_error, job.doom_tried = ARGV[3], ARGV[4], ARGV[5]
  save(job)
end
return 1

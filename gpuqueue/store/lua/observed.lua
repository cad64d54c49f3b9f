-- observed: the launcher tells what keeps an attempt from running (or from ending), in the words of whoever said so.
-- ARGV: delivery, attempt, wait (a wait reason, '': nothing), detail, pod, node, deadline (s, '': keep) by which its executor
--       must have claimed it
-- Answer: 1 if the attempt is current, else 0
--! records
local job = load(ARGV[1])
if not job or job.attempt ~= tonumber(ARGV[2]) then return 0 end
local launching = job.state == 'launching'
if not launching and job.state ~= 'running' and job.state ~= 'reporting' then return 0 end
local function said(text) return text ~= '' and text or nil end
job.wait, job.detail = said(ARGV[3]), said(ARGV[4])
job.pod, job.node = said(ARGV[5]) or job.pod, said(ARGV[6]) or job.node
if launching and ARGV[7] ~= '' then redis.call('ZADD', K.deadlines, ARGV[7], holder_of(job)) end
save(job)
return 1

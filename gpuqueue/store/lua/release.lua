-- release: an attempt's process has ended, or never started. Free its slot, decide how a job
-- without a report continues, and start every job that can start. May be repeated.
-- Context:
--   delivery, attempt, token?: of the attempt
--   instance?: the process or Job that ended; absent: none was observed. If it has gone on to later
--     attempts (see next), its end is that of the last one
--   ended: what the end means if the executor did not report: `reason`, `error`, `avoid` (the node
--     at fault, or ''), `evidence` (fields of the record), and `tried`, when a new attempt follows:
--     'always', 'unstarted' (only if this attempt was never claimed), 'never', or 'held' (the job
--     waits for a hold); `lost`, whether its process was lost with the task; and `blames`, the
--     place at fault ('device', 'host', 'application', 'node', a hold, '', or 'start', if it got no
--     further; 'rejection': its node has rejected its pod)
--   max_attempts: how many attempts a job gets
--   max_disruptions: how many ends that the cluster caused (evicted, preempted, node lost) do not
--     count as attempts
--   spec, nonce, by, most: see admit
-- Answer: {freed (0|1), state of the job ('' if unknown; 'moving' if a finisher must move it to
--         another class), the holder, why the job is tried again ('' if it is not known), then the
--         answer of admit...}
--! clock bounds counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds places
--! held warm waiting_pods placement reserved gate admission,
--! accounting escalation task_memory release
bounds.follow(context.spec)
if context.instance and not context.spec.host then forget_waiting(context.instance) end
local freed, job, holder, beside = release(context)
local answer = beside and {} or admit(context)
table.insert(answer, 1, freed)
table.insert(answer, 2, job and (context.ended.moves and 'moving' or job.state) or '')
table.insert(answer, 3, holder)
table.insert(answer, 4, job and job.error or '')
return answer

-- observed: the launcher reports what keeps an attempt from running, or from ending.
-- Context:
--   delivery, attempt, token?: of the attempt
--   wait?: a wait reason; absent: the attempt waits for nothing
--   detail?: the cluster's own words
--   pod?, node?: absent: as known before
--   claim_within?: seconds that its executor has to claim it, from now; absent: as before
--   launch_in?: seconds until its launch is tried again; absent: it is not postponed
-- Answer: 1 if the attempt is current, else 0
--! clock records slots domains attempts place holds bounds warm unbound
local job = current_job(context)
if not job then return 0 end
local launching = job.state == 'launching'
local runs = job.state == 'running' or job.state == 'reporting'
-- Its result may be there while its node does not say that its process has ended.
local held = job.state == 'ended'
  and redis.call('ZSCORE', K['holders_' .. job.isolation], holder_of(job))
if not (launching or runs or held) then return 0 end
job.wait, job.detail = context.wait, context.detail
local scheduled = context.node and not job.node
if context.pod and not job.pod or scheduled then got_further(job, scheduled and 2 or 1) end
job.pod, job.node = context.pod or job.pod, context.node or job.node
if launching and context.claim_within then
  redis.call('ZADD', K.deadlines, now + context.claim_within, holder_of(job))
end
if launching and context.launch_in then
  redis.call('ZADD', K.launching, 'XX', now + context.launch_in, holder_of(job))
end
if context.node and domain.bind(job, context.node) and not job.doomed then
  job.doomed, job.doom_tried, job.doom_blames = OF_NODES.no_room, 'always', ''
  job.doom_error = string.format('its pod came to node %s, which other jobs have', context.node)
  keep_away(job, context.node) -- its next pod would come there, too
  redis.call('ZADD', K.stopping, 'NX', now, holder_of(job))
end
save(job)
return 1

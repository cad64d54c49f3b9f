-- give_up: a time limit of an attempt that does not start has passed. The reason is stored before
-- its Job is deleted, so that every observer of the end knows it.
-- Context:
--   delivery, attempt, token?: of the attempt
--   reason: an end reason
--   error: the text for people
--   tried: 'always' | 'unstarted' | 'never' | 'held', as in release
--   blames?, avoid?: the place and the node at fault, as in release
-- Answer: 1 if the attempt is given up (also if it was before), 0 if it runs or is not current
--! clock records
local job = load(context.delivery)
if not is_current(job, context) or job.state ~= 'launching' then return 0 end
if not job.doomed then
  job.doomed, job.doom_error, job.doom_tried = context.reason, context.error, context.tried
  job.doom_blames, job.doom_avoid = context.blames, context.avoid
  save(job)
end
return 1

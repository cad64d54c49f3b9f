-- finished: the finisher has written everything.
-- Context:
--   delivery: of the job
--   finisher: the name of the claim
--   reason: the end reason that was written
--   keep: seconds that the tombstone is kept
-- Answer: 1 if this ended the job, else 0
--! clock counts records tombstones
local job = load(context.delivery)
if not job or job.state ~= 'finishing' or job.finisher ~= context.finisher then return 0 end
entomb(job, context.reason, context.keep)
return 1

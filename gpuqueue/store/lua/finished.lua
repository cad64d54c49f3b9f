-- finished: the finisher has written everything.
-- Context:
--   delivery: of the job
--   finisher: the name of the claim
--   reason: the end reason that was written
--   keep: seconds that the tombstone is kept
--   given_up?: why the application, or a callback, had no part in it: the text for people
-- Answer: 1 if this ended the job, else 0
--! clock counts records tombstones
local job = load(context.delivery)
-- A job has a finisher in the state finishing alone.
if not job or job.finisher ~= context.finisher then return 0 end
if context.given_up then
  job.error = context.given_up
  count('given_up', job, context.reason)
end
entomb(job, context.reason, context.keep)
return 1

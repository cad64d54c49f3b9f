-- finish_failed: a finisher could not write everything. After a pause, any may take the job.
-- Context:
--   delivery: of the job
--   finisher: the name of the claim
--   error: the text for people
--   passing: whether the cause passes, so that the try does not count
--   free_for: seconds since the first such failure in a row, after which it counts
-- Answer: {1, tries that count, seconds since the first failure in a row that passes} | {0}: the
--         finisher has not the job any more
--! clock records
local job = load(context.delivery)
if not job or job.finisher ~= context.finisher then return { 0 } end
local pause, waited
if context.passing then
  job.finish_waits = job.finish_waits or now
  waited = now - job.finish_waits
  if waited < context.free_for then job.finishes = math.max(0, (job.finishes or 0) - 1) end
  pause = math.min(30, math.max(1, waited))
else
  job.finish_waits, waited = nil, 0
  pause = math.min(60, 2 ^ math.max(0, (job.finishes or 0) - 1))
end
job.finish_error = context.error
-- The name of no claim: this finisher may write nothing more.
job.finisher = ''
redis.call('ZADD', K.finishing, now + pause, job.delivery)
save(job)
return { 1, job.finishes or 0, math.floor(waited) }

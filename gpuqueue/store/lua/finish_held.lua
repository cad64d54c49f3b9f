-- finish_held: the cluster gives the finisher of a job no pod, as it would give none to others.
-- That is the state of their class, or image: no try counts, and one of them tries again after a
-- pause.
-- Context:
--   delivery: of the job
--   finisher: the name of the claim
--   place: what is held; see model/place.py
--   error: the words of the cluster
-- Answer: {1, seconds until the job is due again} | {0}: the finisher has not the job any more
--! clock records place holds places
local job = load(context.delivery)
if not job or job.finisher ~= context.finisher then return { 0 } end
local entry = fail_at(context.place, job, context.finisher, context.error, 1, 0)
local pause = math.max(1, entry['until'] - now)
job.finishes = math.max(0, (job.finishes or 0) - 1)
job.finish_waits, job.finish_probes = job.finish_waits or now, nil
job.finish_error = entry.error
job.finisher = ''
redis.call('ZADD', K.finishing, now + pause, job.delivery)
save(job)
return { 1, math.floor(pause) }

-- finish_claim: a finisher takes a job whose executor could not write the result. Its lease keeps
-- other finishers away.
-- Context:
--   delivery: of the job
--   finisher: the name of the claim
--   lease: seconds
--   keep: seconds that the tombstone is kept
-- Answer: {'ok', record (JSON), message (JSON)} | {'busy'} | {'superseded'} (ended: no result is
--         due) | {'not finishing'}
--! clock counts records tombstones
local delivery, finisher = context.delivery, context.finisher
local job = load(delivery)
if not job or job.state ~= 'finishing' then return { 'not finishing' } end
local free_from = tonumber(redis.call('ZSCORE', K.finishing, delivery)) or 0
if job.finisher and job.finisher ~= finisher and free_from > now then return { 'busy' } end
-- The task sent its retry (or, by task.replace, its successor) before its process died. That
-- delivery continues the job, so no result is due for this one.
local retried = has_successor(job)
local silent = job.outcome == 'RETRIED' or job.outcome == 'IGNORED'
if silent or (retried and job.reason ~= 'CANCELLED') then
  entomb(job, job.outcome == 'IGNORED' and 'IGNORED' or 'RETRIED', context.keep)
  return { 'superseded' }
end
job.finisher = finisher
job.finish_tries = (job.finish_tries or 0) + 1
redis.call('ZADD', K.finishing, now + context.lease, delivery)
save(job)
return { 'ok', cjson.encode(job), redis.call('HGET', K.messages, delivery) or '' }

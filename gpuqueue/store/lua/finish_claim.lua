-- finish_claim: one finisher at a time writes the result of a job whose executor could not; a lease guards its work.
-- ARGV: delivery, finisher, now (s), lease (s), keep (s)
-- Answer: {'ok', record (JSON), message (JSON)} | {'busy'} | {'superseded'} (ended: nothing to write) | {'not finishing'}
--! counts records tombstones
local job, now = load(ARGV[1]), tonumber(ARGV[3])
if not job or job.state ~= 'finishing' then return { 'not finishing' } end
local free_from = tonumber(redis.call('ZSCORE', K.finishing, ARGV[1])) or 0
if job.finisher and job.finisher ~= ARGV[2] and free_from > now then return { 'busy' } end
-- The task had sent its retry (or, by task.replace, its successor) before its process died: that delivery goes on, and
-- there is no result to write.
local retried = has_successor(job)
if job.outcome == 'RETRIED' or job.outcome == 'IGNORED' or (retried and job.reason ~= 'CANCELLED') then
  entomb(job, job.outcome == 'IGNORED' and 'IGNORED' or 'RETRIED', now, tonumber(ARGV[5]))
  return { 'superseded' }
end
job.finisher = ARGV[2]
job.finish_tries = (job.finish_tries or 0) + 1
redis.call('ZADD', K.finishing, now + tonumber(ARGV[4]), ARGV[1])
save(job)
return { 'ok', cjson.encode(job), redis.call('HGET', K.messages, ARGV[1]) or '' }

-- claim: an executor takes its attempt. Only the first process that shows the token gets it; it may ask again.
-- ARGV: delivery, attempt, token, instance, worker, now (s)
-- Answer: {'ok', record (JSON), message (JSON)} | {'refused', why}
--! records
local job = load(ARGV[1])
if not job then return { 'refused', 'unknown job' } end
if job.attempt ~= tonumber(ARGV[2]) or job.token ~= ARGV[3] then return { 'refused', 'stale token' } end
if job.cancel then return { 'refused', 'cancelled' } end
if job.doomed then return { 'refused', 'given up' } end
if job.timed_out then return { 'refused', 'out of time' } end
local message = redis.call('HGET', K.messages, ARGV[1])
if not message then return { 'refused', 'message lost' } end -- adopted after Redis lost its data, before it was claimed
if job.state == 'running' and job.instance == ARGV[4] then
  return { 'ok', cjson.encode(job), message }
end
if job.state ~= 'launching' then return { 'refused', 'state ' .. job.state } end
local now, holder = tonumber(ARGV[6]), holder_of(job)
job.state, job.instance, job.worker, job.started = 'running', ARGV[4], ARGV[5], now
redis.call('ZREM', K.launching, holder)
if job.time_limit then
  redis.call('ZADD', K.deadlines, now + job.time_limit, holder)
else
  redis.call('ZREM', K.deadlines, holder)
end
save(job)
return { 'ok', cjson.encode(job), message }

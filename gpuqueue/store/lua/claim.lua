-- claim: an executor takes its attempt. The first process with the token gets it, and may repeat
-- it: then the time to load the application begins again.
-- Context:
--   delivery, attempt, token: of the attempt
--   instance: the process, or the Job and its pod
--   worker: the name of its Celery worker
--   loads_within?: seconds that it has to load the application (see loaded); absent: it does not
--     report that
-- Answer: {'ok', record (JSON), message (JSON)} | {'refused', why}
--! clock records slots domains attempts place holds
local job = load(context.delivery)
if not job then return { 'refused', 'unknown job' } end
if job.attempt ~= context.attempt or job.token ~= context.token then
  return { 'refused', 'stale token' }
end
if job.cancel then return { 'refused', 'cancelled' } end
if job.doomed then return { 'refused', 'given up' } end
if job.timed_out then return { 'refused', 'out of time' } end
local message = redis.call('HGET', K.messages, context.delivery)
-- It was adopted after Redis lost its data, before it was claimed.
if not message then return { 'refused', 'message lost' } end
if job.state == 'running' and job.instance == context.instance then
  -- It imports the application again: see gpuqueue/runner/pod.py.
  if job.loading and context.loads_within then
    local limit = job.started + (job.time_limit or math.huge)
    redis.call('ZADD', K.deadlines, math.min(limit, now + context.loads_within), holder_of(job))
  end
  return { 'ok', cjson.encode(job), message }
end
if job.state ~= 'launching' then return { 'refused', 'state ' .. job.state } end
local process = { instance = context.instance, worker = context.worker, started = now }
process.loads_within = context.loads_within
begin(job, process)
for _, name in ipairs(job.places or {}) do
  if place_kind(name) == 'host' then succeed_at(name, holder_of(job)) end
end
got_further(job, 3)
save(job)
return { 'ok', cjson.encode(job), message }

-- release: an attempt's process is known to have ended (or never started). Free its slot, decide what becomes of a job
-- whose executor did not report, and start whatever can start. May be repeated.
-- ARGV: delivery, attempt, instance ('': none was seen), end (JSON, below), max_attempts, spec (JSON), now (s), nonce, by, most
-- Answer: {freed (0|1), state of the job ('' if unknown), granted record (JSON)...}
-- The end: reason, error, avoid (the node at fault or ''), evidence (fields of the record), and tried: 'always', 'unstarted' (a
-- new attempt only if nobody claimed this one) or 'never'.
--! counts records line attempts admission
local delivery, attempt, instance, now = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[7])
local ended = cjson.decode(ARGV[4])
local job = load(delivery)
local holder = string.format('%s#%d', delivery, attempt)
local current = job and job.attempt == attempt
-- Another process took this attempt: the one that ended, or failed to start, had only been started beside it by a repair.
if current and job.instance and not same_instance(job.instance, instance) then return { 0, job.state } end
if current and job.doomed and job.state == 'launching' then
  ended.reason, ended.error, ended.tried = job.doomed, job.doom_error, job.doom_tried
end

local function due_again()
  if attempt >= tonumber(ARGV[5]) or redis.call('HEXISTS', K.messages, delivery) == 0 then return false end
  if has_successor(job) then return false end
  if job.state == 'launching' then return ended.tried ~= 'never' end
  return job.state == 'running' and ended.tried == 'always'
end

local freed = redis.call('ZREM', K.holders_shared, holder) + redis.call('ZREM', K.holders_exclusive, holder)
redis.call('HDEL', K.devices, holder)
for _, key in ipairs({ K.launching, K.deadlines, K.stopping }) do redis.call('ZREM', key, holder) end

if current and freed == 1 then
  note_seconds('held', job, now - job.admitted)
  for field, value in pairs(ended.evidence) do job[field] = value end
  job.wait, job.detail = nil, nil
end
if current and job.state == 'ended' and freed == 1 then
  job.released = now
  save(job)
elseif current and (job.state == 'launching' or job.state == 'running' or job.state == 'reporting') then
  job.released = now
  if job.cancel and job.state ~= 'reporting' then
    hand_to_finish(job, 'CANCELLED', now)
  elseif job.timed_out == 'run' and job.state == 'running' then
    hand_to_finish(job, 'TIME_LIMIT', now)
  elseif due_again() then
    count('repeated', job, ended.reason)
    forget_attempt(job)
    job.error = ended.error
    if ended.avoid ~= '' then keep_away(job, ended.avoid) end
    job.state, job.eta = 'delayed', now + math.min(60, 2 ^ (attempt - 1)) -- pause 1, 2, 4, ... 60 s
    redis.call('ZADD', K.delayed, job.eta, delivery)
    if job.expires then redis.call('ZADD', K.expiring, job.expires, delivery) end
    save(job)
  else
    job.error = ended.error
    -- Never claimed, as often as it was tried: whatever the status of the last process, the job's own code never ran.
    local unstarted = job.state == 'launching' and ended.tried == 'unstarted' and ended.reason == 'ERROR'
    -- Stopped for not being claimed in time: what its pod makes of being stopped is not the reason.
    local late = job.state == 'launching' and job.timed_out == 'start'
    hand_to_finish(job, (unstarted or late) and 'INFRA' or ended.reason, now)
  end
end
local answer = admit(cjson.decode(ARGV[6]), now, ARGV[8], ARGV[9], tonumber(ARGV[10]))
table.insert(answer, 1, freed)
table.insert(answer, 2, job and job.state or '')
return answer

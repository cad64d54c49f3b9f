-- relaunch: take over a launch that is unconfirmed since `before` and still wanted.
-- Context:
--   delivery, attempt, token?: of the attempt
--   older_than: seconds; less than 0: the launch may be due in a moment
--   most?: how often it is repeated at most, each time after twice as long; then the attempt is
--     given up. Absent: the launch was postponed, and is not counted
-- Answer: the record (JSON), or nil if there is no such launch
--! clock records
local holder = holder_name(context.delivery, context.attempt)
local since = tonumber(redis.call('ZSCORE', K.launching, holder))
if not since or since > now - context.older_than then return nil end
local job = load(context.delivery)
local wanted = job and not job.cancel and not job.doomed and not job.timed_out
if job and job.attempt == context.attempt and not is_current(job, context) then return nil end
if not wanted or job.state ~= 'launching' or job.attempt ~= context.attempt then
  if not job or wanted then redis.call('ZREM', K.launching, holder) end
  return nil
end
if context.most then
  local launches = job.launches or 0
  if since > now - context.older_than * 2 ^ launches then return nil end
  if launches >= context.most then
    local seen = job.detail and ': ' .. job.detail or ''
    job.doomed, job.doom_tried = 'INFRA', 'always'
    job.doom_error = string.format('its launch was not confirmed in %d tries%s', launches + 1, seen)
    save(job)
    return nil
  end
  job.launches = launches + 1
  save(job)
end
redis.call('ZADD', K.launching, now, holder)
return cjson.encode(job)

-- relaunch: take over a launch that is unconfirmed since `before` and still wanted.
-- Context:
--   delivery, attempt: of the attempt
--   older_than: seconds
-- Answer: the record (JSON), or nil if there is no such launch
--! clock records
local holder = holder_name(context.delivery, context.attempt)
local since = tonumber(redis.call('ZSCORE', K.launching, holder))
if not since or since > now - context.older_than then return nil end
local job = load(context.delivery)
local wanted = job and not job.cancel and not job.doomed
if not wanted or job.state ~= 'launching' or job.attempt ~= context.attempt then
  if not job or wanted then redis.call('ZREM', K.launching, holder) end
  return nil
end
redis.call('ZADD', K.launching, now, holder)
return cjson.encode(job)

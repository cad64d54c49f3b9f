-- relaunch: take up a launch that nobody confirmed since `before`, and that somebody still wants.
-- ARGV: holder, delivery, before (s), now (s)
-- Answer: the record (JSON), or nil when there is nothing to take up
--! records
local since = tonumber(redis.call('ZSCORE', K.launching, ARGV[1]))
if not since or since > tonumber(ARGV[3]) then return nil end
local job = load(ARGV[2])
if not job or job.state ~= 'launching' or holder_of(job) ~= ARGV[1] or job.cancel or job.doomed then
  if not job or not (job.cancel or job.doomed) then redis.call('ZREM', K.launching, ARGV[1]) end
  return nil
end
redis.call('ZADD', K.launching, ARGV[4], ARGV[1])
return cjson.encode(job)

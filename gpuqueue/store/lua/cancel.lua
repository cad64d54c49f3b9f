-- cancel: take a job out of line, or have it stopped. A job nobody knows yet is remembered as revoked.
-- ARGV: task id, terminate (0|1), signal, now (s), remember until (s)
-- Answer: 'cancelled' | 'stopping' | 'running' (left alone: terminate not asked) | 'finishing' | 'ended' | 'unknown'
--! records line
local id, now = ARGV[1], tonumber(ARGV[4])

local function cancel(job)
  if job.state == 'ended' then return 'ended' end
  if job.state == 'finishing' or job.state == 'reporting' then return 'finishing' end
  if job.state == 'launching' or job.state == 'running' then
    if ARGV[2] ~= '1' and job.state == 'running' then return 'running' end
    job.cancel = job.cancel or ARGV[3]
    redis.call('ZADD', K.stopping, 'NX', now, holder_of(job))
    save(job)
    return 'stopping'
  end
  leave_line(job)
  hand_to_finish(job, 'CANCELLED', now)
  return 'cancelled'
end

local job = load(redis.call('HGET', K.latest, id) or id)
local over = job and job.state == 'ended' and job.reason ~= 'RETRIED'
-- Also for a known job: its task may have sent a retry that nobody has accepted yet, which is another delivery of the id.
if not over then
  redis.call('HSET', K.revoked, id, ARGV[3])
  redis.call('ZADD', K.revoked_until, ARGV[5], id)
end
-- An older delivery may be tried again after its process died, having sent its retry.
for retries = 0, newest_of(id) - 1 do
  local older = load(retries == 0 and id or id .. '~' .. retries)
  if older and older.id == id then cancel(older) end
end
if not job or (job.state == 'ended' and not over) then return 'unknown' end
return cancel(job)

-- cancel: take a job out of line, or have it stopped. An unknown job is remembered as revoked.
-- Context:
--   id: the task id
--   terminate: whether a running attempt is stopped too
--   signal: sent to it first, e.g. 'TERM'
--   forget_after: seconds until the revocation is forgotten
--   most: how many older deliveries of the task to look at, so that one call stays short; a large
--     record counts more
--   after?: where an earlier call stopped: the second part of its answer
-- Answer: {'cancelled' | 'stopping' | 'running' (not stopped: no terminate) | 'finishing' | 'ended'
--         | 'unknown', where this call stopped ('' if it saw all deliveries),
--         the newest delivery, or the id of an unknown job}
--! clock records slots tenants tenant_lines tenant_turns line damaged
local id = context.id

local function cancel(job)
  if job.state == 'ended' then return 'ended' end
  if job.state == 'finishing' or job.state == 'reporting' then return 'finishing' end
  if job.state == 'launching' or job.state == 'running' then
    if not context.terminate and job.state == 'running' then return 'running' end
    job.cancel = job.cancel or context.signal
    redis.call('ZADD', K.stopping, 'NX', now, holder_of(job))
    save(job)
    return 'stopping'
  end
  leave_line(job)
  hand_to_finish(job, 'CANCELLED')
  return 'cancelled'
end

-- Later calls look at the older deliveries alone.
local newest_name, spent, newest = redis.call('HGET', K.latest, id) or id, 0, nil
if not context.after then
  newest, spent = load_or_set_aside(newest_name)
end
local over = newest and newest.state == 'ended' and newest.reason ~= 'RETRIED'
-- Also for a known job: its task may have sent a retry that is not accepted yet, and a retry is
-- another delivery of the id.
if not (over or context.after) then
  redis.call('HSET', K.revoked, id, context.signal)
  redis.call('ZADD', K.revoked_until, now + context.forget_after, id)
end
local function look_at(delivery)
  if delivery == newest_name then return end
  local older, weight = load_or_set_aside(delivery)
  spent = spent + weight
  if older and older.id == id then cancel(older) end
end

if not context.after then look_at(id) end
-- An older delivery may be repeated if its process died after it sent the retry.
local first, last = context.after or (id .. '\0'), id .. '\1'
local found =
  redis.call('ZRANGE', K.repeats, '(' .. first, '(' .. last, 'BYLEX', 'LIMIT', 0, context.most)
local stopped = #found == context.most and found[#found] or ''
for place, entry in ipairs(found) do
  if spent >= context.most then
    stopped = found[place - 1] or first
    break
  end
  look_at(string.sub(entry, #id + 2))
end
local answer = 'unknown'
-- Where it has moved to, it is known.
local moved = over and newest.reason == 'ESCALATED'
if newest and not moved and (newest.state ~= 'ended' or over) then answer = cancel(newest) end
return { answer, stopped, newest_name }

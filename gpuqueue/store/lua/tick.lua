-- tick: move everything that is due: delayed jobs into line, expired jobs out of it, attempts past
-- their deadline to be stopped; forget old tombstones and revocations.
-- Context:
--   now: Unix seconds
--   most: how many of each kind to move, so that one call stays short
-- Answer: {moved, next due (Unix seconds as text, '' for none)}
--! records line
local now, moved = context.now, 0
local TIMED_OUT = { launching = 'start', running = 'run', reporting = 'report' }

local function due(key)
  local found = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, context.most)
  moved = moved + #found
  return found
end

for _, delivery in ipairs(due(K.expiring)) do
  redis.call('ZREM', K.expiring, delivery)
  local job = load(delivery)
  if job and (job.state == 'accepted' or job.state == 'delayed' or job.state == 'waiting') then
    leave_line(job)
    hand_to_finish(job, 'EXPIRED', now)
  end
end
for _, delivery in ipairs(due(K.delayed)) do
  redis.call('ZREM', K.delayed, delivery)
  local job = load(delivery)
  if job and job.state == 'delayed' then
    take_place(job)
    save(job)
  end
end
for _, holder in ipairs(due(K.deadlines)) do
  redis.call('ZREM', K.deadlines, holder)
  local job = load(string.match(holder, '^(.*)#%d+$'))
  local word = job and (TIMED_OUT[job.state] or job.state == 'ended')
  if word and job.attempt and holder_of(job) == holder then
    redis.call('ZADD', K.stopping, 'NX', now, holder)
    if job.state ~= 'ended' then
      job.timed_out = word
      save(job)
    end
  end
end
for _, delivery in ipairs(due(K.ended)) do
  redis.call('ZREM', K.ended, delivery)
  local job = load(delivery)
  if job and redis.call('HGET', K.latest, job.id) == delivery then
    redis.call('HDEL', K.latest, job.id)
  end
  redis.call('HDEL', K.jobs, delivery)
end
for _, id in ipairs(due(K.revoked_until)) do
  redis.call('ZREM', K.revoked_until, id)
  redis.call('HDEL', K.revoked, id)
end

local next_due = nil
for _, key in ipairs({ K.delayed, K.expiring, K.deadlines }) do
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  if first and (not next_due or tonumber(first) < tonumber(next_due)) then next_due = first end
end
return { moved, next_due or '' }

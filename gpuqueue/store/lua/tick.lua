-- tick: move everything that is due: delayed jobs into line, expired jobs out of it, attempts past
-- their deadline to be stopped; forget old tombstones and revocations.
-- Context:
--   most: how many of each kind to move, so that one call stays short; a large record counts more
-- Answer: {moved, next due (Unix seconds as text, '' for none)}
--! clock records line
local moved = 0
local TIMED_OUT = { launching = 'start', running = 'run', reporting = 'report' }

-- Take what is due out of a key, one by one, until the budget of its kind is used up. `handle`
-- answers the weight of the record that it loaded, if any.
local function move(key, handle)
  local spent = 0
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, context.most)) do
    if spent >= context.most then return end
    redis.call('ZREM', key, name)
    moved = moved + 1
    spent = spent + (handle(name) or 1)
  end
end

move(K.expiring, function(delivery)
  local job, weight = load(delivery)
  if job and (job.state == 'accepted' or job.state == 'delayed' or job.state == 'waiting') then
    leave_line(job)
    hand_to_finish(job, 'EXPIRED')
  end
  return weight
end)
move(K.delayed, function(delivery)
  local job, weight = load(delivery)
  if job and job.state == 'delayed' then
    take_place(job)
    save(job)
  end
  return weight
end)
move(K.deadlines, function(holder)
  local job, weight = load(string.match(holder, '^(.*)#%d+$'))
  local word = job and (TIMED_OUT[job.state] or job.state == 'ended')
  if word and job.attempt and holder_of(job) == holder then
    redis.call('ZADD', K.stopping, 'NX', now, holder)
    if job.state ~= 'ended' then
      job.timed_out = word
      save(job)
    end
  end
  return weight
end)
move(K.ended, function(delivery)
  local job, weight = load(delivery)
  if job and redis.call('HGET', K.latest, job.id) == delivery then
    redis.call('HDEL', K.latest, job.id)
  end
  if job then redis.call('ZREM', K.repeats, repeat_of(job)) end
  redis.call('HDEL', K.jobs, delivery)
  return weight
end)
move(K.revoked_until, function(id)
  redis.call('HDEL', K.revoked, id)
end)

local next_due = nil
for _, key in ipairs({ K.delayed, K.expiring, K.deadlines }) do
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  if first and (not next_due or tonumber(first) < tonumber(next_due)) then next_due = first end
end
return { moved, next_due or '' }

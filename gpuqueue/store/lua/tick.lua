-- tick: move everything that is due: delayed jobs into line, expired jobs out of it, attempts past
-- their deadline to be stopped; forget old tombstones, revocations and places.
-- Context:
--   most: how many of each kind to move, so that one call stays short; a large record counts more
-- Answer: {moved, next due (Unix seconds as text, '' for none)}
--! clock records line places
local moved = 0
local TIMED_OUT = { launching = 'start', running = 'run', reporting = 'report' }

-- Whether the deadline of a running attempt is that of its import: see claim and loaded. A record
-- keeps 14 digits of a time.
local function is_loading(job, deadline)
  local limit = job.time_limit
  return job.state == 'running' and not (limit and deadline >= job.started + limit - 0.01)
end

-- Take what is due out of a key, one by one, until the budget of its kind is used up. `handle`
-- answers the weight of the record that it loaded, if any.
local function move(key, handle)
  local spent = 0
  local due =
    redis.call('ZRANGEBYSCORE', key, '-inf', now, 'WITHSCORES', 'LIMIT', 0, context.most)
  for i = 1, #due, 2 do
    if spent >= context.most then return end
    redis.call('ZREM', key, due[i])
    moved = moved + 1
    spent = spent + (handle(due[i], tonumber(due[i + 1])) or 1)
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
move(K.deadlines, function(holder, deadline)
  local job, weight = load(string.match(holder, '^(.*)#%d+$'))
  local word = job and (TIMED_OUT[job.state] or job.state == 'ended')
  if word and job.attempt and holder_of(job) == holder then
    redis.call('ZADD', K.stopping, 'NX', now, holder)
    if job.state ~= 'ended' then
      job.timed_out = is_loading(job, deadline) and 'load' or word
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

forget_places()

local soonest, due = next_due()
local probe = next_probe()
if probe and (not soonest or probe < soonest) then due = string.format('%.3f', probe) end
return { moved, due or '' }

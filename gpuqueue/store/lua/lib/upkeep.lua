-- What is due: delayed jobs go into line, expired jobs out of it, attempts past their deadline are
-- stopped; old tombstones and revocations are forgotten. Needs clock, records, tenants, line,
-- damaged.

local TIMED_OUT = { launching = 'start', running = 'run', reporting = 'report' }

-- Whether the deadline of a running attempt is that of its import: see claim and loaded. A record
-- keeps 14 digits of a time.
local function is_loading(job, deadline)
  local limit = job.time_limit
  return job.state == 'running' and not (limit and deadline >= job.started + limit - 0.01)
end

-- Key → what happens with a name that is due. Answers the weight of the record that it loaded.
local MOVES = {
  {
    'expiring',
    function(delivery)
      local job, weight = load_or_set_aside(delivery)
      if job and (job.state == 'accepted' or job.state == 'delayed' or job.state == 'waiting') then
        leave_line(job)
        hand_to_finish(job, 'EXPIRED')
      end
      return weight
    end,
  },
  {
    'delayed',
    function(delivery)
      local job, weight = load_or_set_aside(delivery)
      if job and job.state == 'delayed' then
        take_place(job)
        save(job)
      else
        tenancy.forget_delay(delivery)
      end
      return weight
    end,
  },
  {
    'deadlines',
    function(holder, deadline)
      local delivery = delivery_of(holder)
      if not delivery then return set_aside('deadlines', holder, holder) end
      local job, weight = load_or_set_aside(delivery)
      local word = job and (TIMED_OUT[job.state] or job.state == 'ended')
      if word and holder_of(job) == holder then
        redis.call('ZADD', K.stopping, 'NX', now, holder)
        if job.state ~= 'ended' then
          job.timed_out = is_loading(job, deadline) and 'load' or word
          save(job)
        end
      end
      return weight
    end,
  },
  {
    'ended',
    function(delivery)
      local job, weight = load(delivery)
      if job and redis.call('HGET', K.latest, job.id) == delivery then
        redis.call('HDEL', K.latest, job.id)
      end
      if job then redis.call('ZREM', K.repeats, repeat_of(job)) end
      redis.call('HDEL', K.jobs, delivery)
      return weight
    end,
  },
  { 'revoked_until', function(id) redis.call('HDEL', K.revoked, id) end },
  { 'tenant_idle', tenancy.forget },
  { 'warm_until', function(instance) redis.call('HDEL', K.warm, instance) end },
}

-- Take what is due out of a key, one by one, until the budget of its kind is used up. What fails
-- stays due: a script that fails keeps what it has written. Answers how much was taken.
local function move(key, handle, most)
  local spent, moved = 0, 0
  local due = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #due, 2 do
    if spent >= most then break end
    redis.call('ZREM', key, due[i])
    local done, weight = pcall(handle, due[i], tonumber(due[i + 1]))
    if not done then
      redis.call('ZADD', key, due[i + 1], due[i])
      error(weight, 0)
    end
    moved = moved + 1
    spent = spent + (weight or 1)
  end
  return moved
end

-- Slots of holders: an attempt of a job of several GPUs has one for each. Needs clock, records.
--
-- Its holder is its first slot. Each further one is a member of K.holders_further, HOLDER/2,
-- HOLDER/3 ..., by the time at which it was last compared with its holder. It is also a member of
-- K.devices, of its domain (see domains.lua) and of K.tenant_running. They are freed with the
-- holder, in the same script.
--
-- Field `several` of K.gate: the class has met such a job. Without it, none of this is read.

local slots = {}
do
  -- A member of K.holders_further that stays, by no time: without it, the key was lost.
  local MARK, NEVER = '.', 2 ^ 52
  -- More than any job may ask for; seconds between two looks at a slot; how many one call looks at.
  local MOST, SETTLED, LOOKED_AT = 64, 60, 64

  -- How many slots a job needs.
  function slots.of_job(job)
    local number = job and job.isolation == 'exclusive' and job.gpus or 1
    return number == math.floor(number) and math.max(1, math.min(MOST, number)) or 1
  end

  -- The names of the further slots of a holder with so many in all.
  function slots.further(holder, number)
    local names = {}
    for i = 2, number do names[#names + 1] = string.format('%s/%d', holder, i) end
    return names
  end

  -- Note that the class has met such a job. What was lost of the further slots is made again.
  function slots.keep()
    local known = redis.call('HGET', K.gate, 'several')
    if known and redis.call('ZCARD', K.holders_further) > 0 then return end
    redis.call('ZADD', K.holders_further, NEVER, MARK)
    redis.call('HSET', K.gate, 'several', 1)
    slots.recount()
  end

  function slots.enter(holder, number)
    if number <= 1 then return end
    slots.keep()
    for _, name in ipairs(slots.further(holder, number)) do
      redis.call('ZADD', K.holders_further, now, name)
    end
  end

  -- Free the further slots of a holder. `job`: its record, if that is of this attempt. Answer: how
  -- many slots it had.
  function slots.leave(holder, job)
    if job and slots.of_job(job) == 1 then return 1 end
    local number = 1
    while true do
      local name = string.format('%s/%d', holder, number + 1)
      if redis.call('ZREM', K.holders_further, name) == 0 then return number end
      redis.call('HDEL', K.devices, name)
      number = number + 1
    end
  end

  -- How many slots a holder has.
  function slots.of_holder(holder)
    local number = 1
    while redis.call('ZSCORE', K.holders_further, string.format('%s/%d', holder, number + 1)) do
      number = number + 1
    end
    return number
  end

  -- How many slots the holders have beyond their first ones.
  function slots.beyond()
    return math.max(0, redis.call('ZCARD', K.holders_further) - 1)
  end

  -- How many slots of an isolation are in use.
  function slots.used(isolation)
    local held = redis.call('ZCARD', K['holders_' .. isolation])
    return isolation == 'exclusive' and held + slots.beyond() or held
  end

  -- The same of both.
  function slots.in_use()
    return { shared = slots.used('shared'), exclusive = slots.used('exclusive') }
  end

  -- Make the further slots again from the records of the holders.
  function slots.recount()
    for _, holder in ipairs(redis.call('ZRANGE', K.holders_exclusive, 0, -1)) do
      local job = load(delivery_of(holder) or '')
      if job and holder_of(job) == holder then slots.enter(holder, slots.of_job(job)) end
    end
  end

  function slots.meet(job)
    if slots.of_job(job) > 1 then slots.keep() end
  end

  -- The indexes of the GPUs of an attempt.
  function slots.devices_of(job)
    local found = {}
    for index in string.gmatch(job.all_devices or '', '%d+') do
      found[#found + 1] = tonumber(index)
    end
    return #found > 0 and found or { job.device }
  end

  -- Note the GPUs of a holder.
  function slots.hold_devices(holder, devices)
    local names = slots.further(holder, #devices)
    for i, index in ipairs(devices) do
      redis.call('HSET', K.devices, i == 1 and holder or names[i - 1], index)
    end
  end

  -- The further slots whose holder an older version has freed. `forget`: called with each.
  function slots.look_over(forget)
    local key, before = K.holders_further, now - SETTLED
    local due = redis.call('ZRANGE', key, '-inf', before, 'BYSCORE', 'LIMIT', 0, LOOKED_AT)
    for _, name in ipairs(due) do
      local holder = string.match(name, '^(.*)/%d+$')
      if holder and redis.call('ZSCORE', K.holders_exclusive, holder) then
        redis.call('ZADD', key, now, name)
      else
        redis.call('ZREM', key, name)
        redis.call('HDEL', K.devices, name)
        forget(name)
      end
    end
  end
end

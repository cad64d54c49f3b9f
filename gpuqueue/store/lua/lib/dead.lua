-- Dead letters: messages that no dispatcher could accept. Needs clock.

-- How many letters above the bounds one call forgets.
local FORGOTTEN = 16

local function forget_letter(id)
  redis.call('HDEL', K.letters, id)
  redis.call('ZREM', K.times, id)
end

-- Set a message aside, and forget the oldest letters above a number and an age.
local function bury(letter, most, seconds)
  letter.last = now
  redis.call('HSET', K.letters, letter.id, cjson.encode(letter))
  redis.call('ZADD', K.times, now, letter.id)
  local old = redis.call('ZRANGEBYSCORE', K.times, '-inf', now - seconds, 'LIMIT', 0, FORGOTTEN)
  for _, id in ipairs(old) do forget_letter(id) end
  local above = math.min(redis.call('ZCARD', K.times) - most, FORGOTTEN)
  if above > 0 then
    for _, id in ipairs(redis.call('ZRANGE', K.times, 0, above - 1)) do forget_letter(id) end
  end
end

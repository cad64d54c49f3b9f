-- Tombstones of ended jobs. Needs clock, counts, records. KEPT, the fields that a tombstone keeps,
-- comes from model/record.py: they identify a redelivery, free the slot and explain the end.

local function entomb(job, reason, keep)
  job.reason = reason
  count('ended', job, reason)
  local stone = {}
  for _, field in ipairs(KEPT) do stone[field] = job[field] end
  stone.state, stone.ended = 'ended', now
  redis.call('ZADD', K.ended, now + keep, job.delivery)
  save(stone)
  redis.call('HDEL', K.messages, job.delivery)
  if job.delivery ~= job.id then redis.call('ZREM', K.repeats, repeat_of(job)) end
  -- Last: a finisher takes a job again whose end was not written.
  redis.call('ZREM', K.finishing, job.delivery)
  return stone
end

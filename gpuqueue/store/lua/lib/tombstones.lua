-- Tombstones of ended jobs. Needs counts, records.

-- Fields that a tombstone keeps: to recognize a redelivery, to free the slot, to explain the end.
local KEPT = { 'delivery', 'id', 'task', 'name', 'gpu_class', 'isolation', 'tenant', 'attempt',
  'instance', 'worker', 'device', 'created', 'admitted', 'started', 'released', 'reason', 'error',
  'retries', 'owner', 'image', 'node', 'pod', 'avoid', 'exit_code', 'container_reason', 'scheduled',
  'container_started', 'container_finished', 'gpu', 'gpu_memory_peak', 'gpu_memory_own',
  'gpu_error' }

local function entomb(job, reason, now, keep)
  job.reason = reason
  count('ended', job, reason)
  local stone = { state = 'ended', ended = now }
  for _, field in ipairs(KEPT) do stone[field] = job[field] end
  redis.call('HDEL', K.messages, job.delivery)
  redis.call('ZREM', K.finishing, job.delivery)
  redis.call('ZADD', K.ended, now + keep, job.delivery)
  save(stone)
  return stone
end

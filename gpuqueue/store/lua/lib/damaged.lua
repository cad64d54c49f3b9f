-- What no script can read (a record of another form, a name that is none) is set aside in
-- K.damaged, where `gpuqueue doctor` shows it, so that it keeps nothing else from its turn. Needs
-- clock, records, line.

-- The longest text that is kept of it.
local LONGEST = 4096
local UNREADABLE = 'its record in Redis is damaged'

local function set_aside(where, name, text)
  redis.pcall('HSET', K.damaged, where .. ':' .. name, string.sub(text, 1, LONGEST))
end

-- The job of a damaged record, as far as its message tells. Its attempt, if any, writes no result.
local function rest_of(delivery)
  local packed = decoded(redis.call('HGET', K.messages, delivery))
  local headers = packed and packed.headers
  if type(headers) ~= 'table' then headers = {} end
  local named = string.match(without_tag(delivery), '^(.*)~[%d.]+$')
  local id = type(headers.id) == 'string' and headers.id or named
  return {
    id = id or delivery,
    delivery = delivery,
    task = type(headers.task) == 'string' and headers.task or '',
    gpu_class = string.match(K.jobs, '{(.*)}'),
    isolation = 'exclusive',
    created = now,
    error = UNREADABLE,
    error_type = 'RecordDamaged',
  }
end

-- As load. The job of a damaged record, or of one that is gone although its message is not, ends: a
-- finisher writes its failure.
local function load_or_set_aside(delivery)
  local job, weight, raw = load(delivery)
  if job then return job, weight end
  if not raw and not redis.call('HGET', K.messages, delivery) then return nil, weight end
  set_aside('jobs', delivery, raw or '')
  job = rest_of(delivery)
  leave_line(job)
  redis.call('ZREM', K.waiting_shared, delivery)
  hand_to_finish(job, 'REJECTED')
  return job, weight
end

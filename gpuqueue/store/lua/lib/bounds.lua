-- Bounds: the slots and the patience of a class. Those of the leader hold for all its dispatchers,
-- also for one that has other settings. Needs clock.
--
-- Field `bounds` of K.gate:
--   EPOCH SHARED EXCLUSIVE EXCLUSIVE_PATIENCE SHARED_PATIENCE KIND UNTIL BY
-- with the number of their last change, what they are bounds of (see kind), a time, and the group
-- of dispatchers whose leader has set them. Later than that time no such leader is there: each
-- dispatcher decides by its own settings, and the leader of another group may set them.

local bounds = {}
do
  local FIELDS = { 'shared_slots', 'exclusive_slots', 'exclusive_patience', 'shared_patience' }
  local PATTERN = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+) (%S+)$'

  -- Slots of a GPU, of a node or of the class, and the GPUs of the machine.
  local function kind(spec)
    return string.format('%s:%d', spec.domain or 'class', spec.devices)
  end

  local function read()
    local text = redis.call('HGET', K.gate, 'bounds')
    return { string.match(text or '', PATTERN) }
  end

  local function holds(known)
    return #known > 0 and now < tonumber(known[7])
  end

  -- Give a class the bounds that hold, in place of those of the caller: the first thing that a verb
  -- does with it. Slots of another kind do not count.
  function bounds.follow(spec)
    local known = read()
    if not holds(known) or known[6] ~= kind(spec) then return end
    for i, field in ipairs(FIELDS) do spec[field] = tonumber(known[i + 1]) end
  end

  -- Set those that hold, for so many seconds, unless those of another group do. Answer: the epoch.
  function bounds.set(spec, by, seconds)
    local known, wanted = read(), {}
    local epoch = tonumber(known[1] or 0)
    if holds(known) and known[8] ~= by then return epoch end
    for i, field in ipairs(FIELDS) do wanted[i] = string.format('%d', spec[field]) end
    wanted[#wanted + 1] = kind(spec)
    for i, each in ipairs(wanted) do
      if known[i + 1] ~= each then
        epoch = epoch + 1
        break
      end
    end
    local text = table.concat(wanted, ' ')
    local set = string.format('%d %s %.0f %s', epoch, text, now + seconds, by)
    redis.call('HSET', K.gate, 'bounds', set)
    return epoch
  end
end

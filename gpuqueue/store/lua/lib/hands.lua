-- Messages in hand. KEYS has, after those of the dead letters, the keys of each queue: those of
-- keys.HAND_NAMES, then its lists, the one of the highest priority first.
local NAMES = { 'last', 'texts', 'leases', 'hands', 'tries' }

-- The keys of one queue, of which each has a number of lists.
local function keys_of(index, lists)
  local at = 2 + (index - 1) * (#NAMES + lists)
  local q = { lists = {} }
  for _, name in ipairs(NAMES) do
    at = at + 1
    q[name] = KEYS[at]
  end
  for place = 1, lists do q.lists[place] = KEYS[at + place] end
  return q
end

-- A message in hand: its number, which grows, and the priority step of the list that it came from.
-- Not the place of that list among the others, as in older versions: steps change.
local function numbered(number, step)
  return string.format('%014d=%d', number, step)
end

-- The list that a message came from; nil: the broker has no list for its step any more.
local function list_of(q, number, steps)
  local own = tonumber(string.match(number, '=(%-?%d+)$'))
  for place, step in ipairs(steps) do
    if step == own then return q.lists[place] end
  end
end

-- The process of a hand, and the text that is given once.
local function process_of(hand)
  return string.match(hand, '^(.*)/') or hand
end

-- The first key, of one queue or of the dead letters, that has another type than ours, and its fix.
-- Asked by commands that a dispatcher has the right to.
local function wrong_key(index, lists)
  local q = keys_of(index, lists)
  local wanted = {
    { q.texts, 'HLEN', 'hash' },
    { q.leases, 'ZCARD', 'sorted set' },
    { q.hands, 'HLEN', 'hash' },
    { q.tries, 'HLEN', 'hash' },
    { K.letters, 'HLEN', 'hash' },
    { K.times, 'ZCARD', 'sorted set' },
  }
  for _, list in ipairs(q.lists) do wanted[#wanted + 1] = { list, 'LLEN', 'list' } end
  for _, each in ipairs(wanted) do
    local key, length, kind = unpack(each)
    local answer = redis.pcall(length, key)
    if type(answer) == 'table' then return 'key=' .. key .. ' is no ' .. kind .. '; RENAME it' end
  end
  return 'key=' .. q.last .. ' is no number; RENAME it'
end

-- take: take messages off the lists of the broker into the hands of one process. A message stays in
-- Redis until its holder reports what became of it.
-- Context:
--   hand: names this call: the process, '/', a text that is given once
--   lease: seconds for which the process holds the messages
--   most, bytes: how many messages to take, and how large all but the last may be together
--   queues: of each queue {name, take (0|1), reports: {number, hand, verdict, error?}...}
--   steps: the priority step of each list that a queue has
--   lost: hands whose messages never arrived: an earlier call that failed
--   gone: processes that have ended
--   others: 1: name the processes that hold messages
--   tries, pauses: how often a message is tried, and the seconds before each further try
--   letters, kept: how many dead letters are kept, and for how many seconds
-- Answer: {more to take now (0|1), {process...}, {dead letter, error...}, {number of the queue,
--         problem...} of the queues with a key of a wrong type, {number of the queue, number of the
--         message, tries before, message...}}
--! clock dead hands
local answer, holders, buried = {}, {}, {}
local taken, size, alone, more = 0, 0, false, false
local lost, gone, named = {}, {}, {}
local problems, failing = {}, {}
for _, hand in ipairs(context.lost) do lost[hand] = true end
for _, process in ipairs(context.gone) do gone[process] = true end

-- Seconds until a message is taken again whose class must be repaired.
local REPAIR = 5
-- The same for one that waits for the end of another job.
local MOMENT = 0.5
-- Errors of what a key holds.
local WRONG = { 'WRONGTYPE', 'not an integer' }

local function is_of_key(problem)
  for _, words in ipairs(WRONG) do
    if string.find(problem, words, 1, true) then return true end
  end
  return false
end

-- Do a part for one queue. A key of a wrong type keeps no other queue from its turn; any other
-- error concerns them all.
local function attempt(index, act, ...)
  local done, problem = pcall(act, ...)
  if done then return end
  if not is_of_key(problem) then error(problem, 0) end
  if not failing[index] then
    failing[index] = true
    problems[#problems + 1] = index
    problems[#problems + 1] = wrong_key(index, #context.steps)
  end
end

local function forget(q, number)
  for _, name in ipairs({ 'texts', 'hands', 'tries' }) do redis.call('HDEL', q[name], number) end
  redis.call('ZREM', q.leases, number)
end

local function put_back(q, number, pause)
  redis.call('HDEL', q.hands, number)
  redis.call('ZADD', q.leases, now + pause, number)
end

-- Onto the list that it came from, where it is the next again, unless a try has failed.
local function give_back(q, number)
  local text, list = redis.call('HGET', q.texts, number), list_of(q, number, context.steps)
  if redis.call('HEXISTS', q.tries, number) == 1 or not list then
    put_back(q, number, 0)
    return
  end
  if text then redis.call('RPUSH', list, text) end
  forget(q, number)
end

local function set_aside(q, name, number, failures)
  local text = redis.call('HGET', q.texts, number)
  if text then
    local id = name .. ':' .. number
    local letter = { id = id, queue = name, message = text, tries = failures.tries }
    letter.first, letter.error = failures.first, failures.error
    bury(letter, context.letters, context.kept)
    buried[#buried + 1] = id
    buried[#buried + 1] = failures.error
  end
  forget(q, number)
end

local function failures_of(q, number)
  local raw = redis.call('HGET', q.tries, number)
  local _, failures = pcall(cjson.decode, raw or '')
  if type(failures) == 'table' and tonumber(failures.tries) then return failures end
  return { tries = 0, first = now }
end

-- A try has failed. Answers whether the message may be taken at once.
local function failed(q, name, number, problem)
  local failures = failures_of(q, number)
  failures.tries, failures.error = failures.tries + 1, problem
  if failures.tries >= context.tries then
    set_aside(q, name, number, failures)
    return false
  end
  redis.call('HSET', q.tries, number, cjson.encode(failures))
  local pause = context.pauses[failures.tries]
  put_back(q, number, pause)
  return pause == 0
end

local function hear(q, name, number, hand, verdict, problem)
  if redis.call('HGET', q.hands, number) ~= hand then return end
  if verdict == 'done' then
    forget(q, number)
  elseif verdict == 'back' then
    put_back(q, number, 0)
  elseif verdict == 'waits' then
    put_back(q, number, REPAIR)
  elseif verdict == 'soon' then
    put_back(q, number, MOMENT)
  elseif verdict == 'returned' then
    give_back(q, number)
  elseif verdict == 'dead' then
    local failures = failures_of(q, number)
    failures.tries, failures.error = failures.tries + 1, problem
    set_aside(q, name, number, failures)
  else
    failed(q, name, number, problem)
  end
end

-- Messages whose holder has ended, or never got them.
local function look_at_hands(q)
  local hands = redis.call('HGETALL', q.hands)
  for at = 1, #hands, 2 do
    local process = process_of(hands[at + 1])
    if lost[hands[at + 1]] then
      put_back(q, hands[at], 0)
    elseif gone[process] then
      redis.call('ZADD', q.leases, now, hands[at])
    elseif not named[process] then
      named[process] = true
      holders[#holders + 1] = process
    end
  end
end

local function hand_over(q, index, number, text, tries)
  redis.call('HSET', q.hands, number, context.hand)
  redis.call('ZADD', q.leases, now + context.lease, number)
  taken, size = taken + 1, size + #text
  for _, part in ipairs({ index, number, tries, text }) do answer[#answer + 1] = part end
end

-- A message that was tried before comes alone: if it ends its holder, no other one is to blame.
local function take_again(q, name, index)
  local due = redis.call('ZRANGEBYSCORE', q.leases, '-inf', now, 'LIMIT', 0, context.most)
  for _, number in ipairs(due) do
    if taken >= context.most or size >= context.bytes or alone then
      more = true
      return
    end
    local hand = redis.call('HGET', q.hands, number)
    local problem = hand and process_of(hand) .. ' ended with it in hand, or did not report in time'
    if not hand or failed(q, name, number, problem) then
      local text, tries = redis.call('HGET', q.texts, number), failures_of(q, number).tries
      if not text then
        forget(q, number)
      elseif tries == 0 or taken == 0 then
        alone = tries > 0
        hand_over(q, index, number, text, tries)
      else
        more = true
        return
      end
    end
  end
end

-- Whether there was one. What cannot be noted stays the next one of its list.
local function take_next(q, index, place)
  local list = q.lists[place]
  local text = redis.call('RPOP', list)
  if not text then return false end
  local number
  local kept, problem = pcall(function()
    number = numbered(redis.call('INCR', q.last), context.steps[place])
    redis.call('HSET', q.texts, number, text)
    hand_over(q, index, number, text, 0)
  end)
  if kept then return true end
  if number then
    redis.pcall('HDEL', q.texts, number)
    redis.pcall('HDEL', q.hands, number)
  end
  redis.call('RPUSH', list, text)
  error(problem, 0)
end

local function take_new(q, index, place)
  while taken < context.most and size < context.bytes and not alone do
    if not take_next(q, index, place) then break end
  end
end

-- What a client that tracks its keys is woken for, and who takes what is there.
local watched, lists, takers = {}, {}, {}
local reports = 0
for index, queue in ipairs(context.queues) do
  reports = reports + #queue.reports
  if queue.take == 1 then
    local q = keys_of(index, #context.steps)
    watched[#watched + 1] = q.leases
    takers[#watched] = function() attempt(index, take_again, q, queue.name, index) end
    for place, list in ipairs(q.lists) do
      watched[#watched + 1], lists[#lists + 1] = list, list
      takers[#watched] = function() attempt(index, take_new, q, index, place) end
    end
  end
end

local function how_many(first, last)
  return first > last and 0 or redis.call('EXISTS', unpack(watched, first, last))
end

-- Take from those keys that exist, in their order. A part without any costs one call, so that a
-- queue that is idle costs none.
local function take_from(first, last, existing)
  if existing == 0 then return end
  if first == last then return takers[first]() end
  local middle = math.floor((first + last) / 2)
  local before = how_many(first, middle)
  take_from(first, middle, before)
  take_from(middle + 1, last, existing - before)
end

local existing = how_many(1, #watched)
if existing == 0 and reports == 0 then return { 0, holders, buried, problems, answer } end
local looks = context.others == 1 or next(lost) or next(gone)
for index, queue in ipairs(context.queues) do
  if looks or #queue.reports > 0 then
    local q = keys_of(index, #context.steps)
    for _, report in ipairs(queue.reports) do
      attempt(index, hear, q, queue.name, unpack(report))
    end
    if looks then attempt(index, look_at_hands, q) end
  end
end
-- What was reported has changed the keys.
if reports > 0 then existing = how_many(1, #watched) end
take_from(1, #watched, existing)
-- The lists that were just read are watched again.
if taken > 0 then more = redis.call('EXISTS', unpack(lists)) > 0 or more or alone end
return { more and 1 or 0, holders, buried, problems, answer }

-- inform: store states that only inform people. A key that has a state of another kind by now keeps
-- it: STARTED, RETRY, a state that the task chose, a result.
-- KEYS: of the states, in the result backend
-- ARGV[1]: seconds until a state expires; 0: never
-- ARGV[2]: bytes of the longest value that is read
-- ARGV[3]...: for each key its new value; the statuses that it may replace (' PENDING QUEUED ');
--     and the very value that it may replace in any case ('': none)
-- Answer: for each key 1 (stored), 0 (kept), 2 (kept, since it cannot be read) or 3 (kept, since it
--     is too long)
local expires, longest = tonumber(ARGV[1]), tonumber(ARGV[2])

local function look(key, statuses, expected)
  local length = redis.call('STRLEN', key)
  if length == 0 then return 1 end
  if length > longest and length ~= #expected then return 3 end
  local value = redis.call('GET', key)
  if value == expected then return 1 end
  local readable, meta = pcall(cjson.decode, value)
  if not readable or type(meta) ~= 'table' or type(meta.status) ~= 'string' then return 2 end
  return string.find(statuses, ' ' .. meta.status .. ' ', 1, true) and 1 or 0
end

local answer = {}
for i, key in ipairs(KEYS) do
  local value, statuses, expected = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  answer[i] = look(key, statuses, expected)
  if answer[i] == 1 then
    if expires > 0 then
      redis.call('SETEX', key, expires, value)
    else
      redis.call('SET', key, value)
    end
    redis.call('PUBLISH', key, value)
  end
end
return answer

-- used: what a class has, what its attempts have used today, and what runs. Reads only.
-- Context:
--   since?: entries of the history from this time on (Unix microseconds, as text)
--   most: how many of them at most
-- Answer: {now (Unix microseconds, as text), {field, value...} of K.usage, {capacity (JSON)...},
--         {entry (JSON), time...} of the history, {entry (JSON) of each attempt that holds a
--         slot...}, when the last slot was freed ('0': none was)}
--! clock counts records slots accounting
local running = {}
for _, isolation in ipairs({ 'shared', 'exclusive' }) do
  local found = redis.call('ZRANGE', K['holders_' .. isolation], 0, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local delivery = delivery_of(found[i])
    local job = delivery and load(delivery)
    local current = job and holder_of(job) == found[i]
    if delivery then
      local number = isolation == 'exclusive' and slots.of_holder(found[i]) or 1
      local since = tonumber(found[i + 1])
      local entry = accounting.entry_of(job, current, found[i], number, since, isolation)
      for _, field in ipairs({ 'start', 'stop', 'waited' }) do
        entry[field] = digits(entry[field])
      end
      running[#running + 1] = cjson.encode(entry)
    end
  end
end
local entries = {}
if context.since then
  local most = context.most
  entries =
    redis.call('ZRANGEBYSCORE', K.history, context.since, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
end
return {
  digits(micros(now)),
  redis.call('HGETALL', K.usage),
  redis.call('ZRANGE', K.capacity, 0, -1),
  entries,
  running,
  redis.call('ZRANGE', K.history, -1, -1, 'WITHSCORES')[2] or '0',
}

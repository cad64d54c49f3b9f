-- set_tenants: set the rules of tenants, all or none. Every decision from now on uses them.
-- Context:
--   source: 'file' | 'command': who sets them. A file leaves what a command has set
--   rules: {tenant ('*': all without a rule), rule ({weight?, max_running?, max_queued?,
--     guaranteed?}; false: it has none any more)}...
--   half_life?: seconds; false: the default
--   whole?: the mark of a file: what an earlier file has set, and this one does not name, goes; a
--     file of the same mark changes nothing
--   epoch?: of the rules that these follow from: nothing is set if others hold by now
-- Answer: {the number of this state of the rules, 1 if something has changed, -1 if others hold,
--         else 0}
--! clock records slots tenants tenant_lines tenant_turns
local from_file = context.source == 'file'
local known = redis.call('HGETALL', K.tenant_rules)
local entries, sources = {}, {}
for i = 1, #known, 2 do
  entries[known[i]] = known[i + 1]
  local entry = decoded(known[i + 1])
  sources[known[i]] = entry and entry.source or ''
end
local epoch = tonumber(entries.epoch or 0) or 0
if from_file and (entries.mark or '') == context.whole then return { epoch, 0 } end
if context.epoch and context.epoch ~= epoch then return { epoch, -1 } end

local changed, names, all = 0, {}, false
local function note(field, entry)
  if entry then entry.source = context.source end
  local text = entry and cjson.encode(entry) or nil
  if text == entries[field] then return end
  if text then
    redis.call('HSET', K.tenant_rules, field, text)
  else
    redis.call('HDEL', K.tenant_rules, field)
  end
  changed = 1
  if string.sub(field, 1, 1) == '=' then
    names[#names + 1] = string.sub(field, 2)
  else
    all = true
  end
end

local wanted = {}
for _, each in ipairs(context.rules) do
  local field = each[1] == '*' and '*' or '=' .. each[1]
  wanted[field] = true
  if not (from_file and sources[field] == 'command') then note(field, each[2]) end
end
if context.half_life ~= nil and not (from_file and sources.half_life == 'command') then
  wanted.half_life = true
  note('half_life', context.half_life and { seconds = context.half_life })
end
if from_file then
  for field, source in pairs(sources) do
    if source == 'file' and not wanted[field] then note(field, false) end
  end
  if context.whole == '' then
    redis.call('HDEL', K.tenant_rules, 'mark')
  else
    redis.call('HSET', K.tenant_rules, 'mark', context.whole)
  end
else
  -- The file may set again what a command has taken back.
  if entries.mark then redis.call('HSET', K.tenant_rules, 'mark', 'changed') end
end
if changed == 0 then return { epoch, 0 } end
redis.call('HSET', K.tenant_rules, 'epoch', epoch + 1)
tenancy.changed(not all and names or nil)
return { epoch + 1, 1 }

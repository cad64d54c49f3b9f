-- One place of those that fail the jobs which meet them. Needs clock, records. An executor needs no
-- more, and must not read all.
--
-- An entry of K.places, JSON: `failures` in a row; `jobs` that met them (task id -> {delivery, how
-- often}); `since`, the first of them; `last`, the last; `error`, its text. If the place is set
-- aside also `until`, from when one probe may start there; `pause`, the seconds until then;
-- `probe`, the holder that tries the place, and `delivery`, its job.

local function place_kind(name)
  return string.match(name, '^(%a+):')
end

-- Name -> entry, false if there is none.
local known_places = {}

-- An entry that cannot be read is no evidence.
local function parse_place(text)
  local decoded, entry = pcall(cjson.decode, text or '')
  return decoded and type(entry) == 'table' and entry.jobs and entry.last and entry or false
end

local function place_entry(name)
  if known_places[name] == nil then
    known_places[name] = parse_place(redis.call('HGET', K.places, name))
  end
  return known_places[name] or nil
end

local function forget_place(name)
  known_places[name] = false
  redis.call('HDEL', K.places, name)
end

local function save_place(name, entry)
  known_places[name] = entry
  redis.call('HSET', K.places, name, cjson.encode(entry))
end

-- An attempt went well at a place: a failure before that is forgotten. A place that is set aside
-- is in use again only if its probe went well. A node has no probe: the scheduler chooses it.
local function succeed_at(name, holder)
  local entry = place_entry(name)
  if not entry then return end
  local noted = not entry['until'] or place_kind(name) == 'node' and entry['until'] <= now
  if noted or entry.probe == holder then forget_place(name) end
end

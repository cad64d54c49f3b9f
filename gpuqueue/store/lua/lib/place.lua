-- One place of those that fail the jobs which meet them. Needs clock, records. An executor needs no
-- more, and must not read all.
--
-- An entry of K.places, JSON: `failures` in a row; `jobs` that met them (task id -> {delivery, how
-- often}); `since`, the first of them; `last`, the last; `error`, its text; `domain`, which one a
-- GPU is. If the place is set aside also `until`, from when one probe may start there; `pause`, the
-- seconds until then; `probe`, the holder that tries the place, and `delivery`, its job.

local function place_kind(name)
  return string.match(name, '^(%a+):')
end

-- Name -> entry, false if there is none; and whether there is any, nil: not asked yet.
local known_places, are_places = {}, nil

-- Field -> its type. Those that are optional have a default of that type here.
local PLACE = { failures = 'number', last = 'number', jobs = 'table' }
local IF_SET = {
  ['until'] = 0, pause = 0, since = 0, error = '', probe = '', delivery = '', domain = '',
}

local function sound_place(entry)
  if type(entry) ~= 'table' or not pcall(cjson.encode, entry) then return false end
  for field, kind in pairs(PLACE) do
    if type(entry[field]) ~= kind then return false end
  end
  for field, like in pairs(IF_SET) do
    local value = entry[field]
    if value ~= nil and type(value) ~= type(like) then return false end
  end
  for _, met in pairs(entry.jobs) do
    if type(met) ~= 'table' or type(met[1]) ~= 'string' or type(met[2]) ~= 'number' then
      return false
    end
  end
  return (entry['until'] and entry.pause or not entry['until'])
    and (entry.probe and entry.delivery or not entry.probe)
end

-- An entry that cannot be read is no evidence.
local function parse_place(text)
  local entry = decoded(text)
  return sound_place(entry) and entry or false
end

-- Whether the class has any place that has failed. Most have none, so this is asked first.
local function any_place()
  if are_places == nil then are_places = redis.call('EXISTS', K.places) == 1 end
  return are_places
end

local function place_entry(name)
  if known_places[name] == nil then
    known_places[name] = any_place() and parse_place(redis.pcall('HGET', K.places, name))
  end
  return known_places[name] or nil
end

local function forget_place(name)
  known_places[name], are_places = false, nil
  redis.call('HDEL', K.places, name)
end

local function save_place(name, entry)
  known_places[name], are_places = entry, true
  redis.pcall('HSET', K.places, name, cjson.encode(entry))
end

-- An attempt went well at a place: a failure before that is forgotten. A place that is set aside
-- is in use again only if its probe went well; a node after its pause also if an attempt did that
-- came to it since the last failure. `admitted`: when the attempt got its slot.
local function succeed_at(name, holder, admitted)
  local entry = place_entry(name)
  if not entry then return end
  local since = place_kind(name) == 'node' and (admitted or now) > entry.last
  local noted = not entry['until'] or since and entry['until'] <= now
  if noted or entry.probe == holder then forget_place(name) end
end

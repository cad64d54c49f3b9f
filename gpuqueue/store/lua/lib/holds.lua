-- Holds: what a cluster would refuse to every job of a class, or of an image, is the state of the
-- class or the image. A hold is a place of another kind, set aside at the first refusal, and tried
-- by one job. HOLD_WAITS, HOLD_ENDS and HOLD_STAGES (kind -> wait, end and stage) and CLASS_HOLDS
-- come from model/place.py. Needs clock, records, place.

local function hold_of_class(kind)
  return kind .. ':' .. string.match(K.jobs, '{(.*)}')
end

-- A job's own image, or that of its class. Processes of a host have none.
local function hold_of_image(spec, job)
  local image = not spec.host and (job.image or spec.image)
  return image and 'image:' .. image or nil
end

-- Read all holds of the class in one step, since each decision needs them.
local function read_holds()
  if not any_place() then return end
  local names = {}
  for _, kind in ipairs(CLASS_HOLDS) do
    local name = hold_of_class(kind)
    if known_places[name] == nil then names[#names + 1] = name end
  end
  if #names == 0 then return end
  local found = redis.pcall('HMGET', K.places, unpack(names))
  for i, name in ipairs(names) do known_places[name] = parse_place(found[i]) end
end

-- Let one job try a hold of the class now: there may be room again.
local function try_now(kind)
  local name = hold_of_class(kind)
  local entry = place_entry(name)
  if entry and entry['until'] and entry['until'] > now then
    entry['until'] = now
    save_place(name, entry)
  end
end

-- An attempt has ended, and what it had is free: quota, and a place on a node.
local function make_holds_due()
  read_holds()
  try_now('quota')
  try_now('scheduling')
end

-- How far an attempt has got: see model/place.py. It ends the holds that it tries.
local function got_further(job, stage)
  if job.warm_of then return end -- its pod was there before
  local holder = holder_of(job)
  if HOLD_STAGES[job.refused or ''] and HOLD_STAGES[job.refused] <= stage then job.refused = nil end
  for _, name in ipairs(job.probes or {}) do
    local ends = HOLD_STAGES[place_kind(name) or '']
    local entry = ends and ends <= stage and place_entry(name)
    if entry and entry.probe == holder then forget_place(name) end
  end
  if stage < 3 then read_holds() end
  if stage == 1 then try_now('quota') end
  if stage == 2 then try_now('scheduling') end
end

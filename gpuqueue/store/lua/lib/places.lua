-- Places: GPUs, hosts, applications and nodes that fail the jobs which meet them, and holds. Needs
-- clock, records, place, holds.
--
-- A failure of one job alone proves nothing, since the job may be at fault: a place is set aside
-- when a second job has failed there, with no success in between. An executor that says that the
-- application cannot be loaded is believed at once, and a node that rejects a pod: they have not
-- looked at the job by then.

-- How many jobs a place names, and how many places a class knows.
local MOST_JOBS, MOST_PLACES = 8, 64
-- Seconds: the first pause, and the longest; after how long a running probe is a success; after
-- how long without a failure or a probe a place is forgotten.
local FIRST_PAUSE, LONGEST_PAUSE, PROVEN, FORGOTTEN = 2, 300, 60, 3600
-- Seconds that a pod waits for room on other nodes while one is being tried.
local TRIED = 15
-- The longest pause of a hold: to try one costs a request, or a pod that waits.
local LONGEST_OF_HOLD = 60
-- What the cluster refuses to a whole class, though no attempt waits for it.
local FINISHES = 'finishes'
-- Bytes of an error that a place keeps, and a hold: the words of a registry come last.
local MOST_ERROR, MOST_OF_HOLD = 300, 1200

-- Name -> entry of all places.
local function places()
  local found, all = any_place() and redis.pcall('HGETALL', K.places) or {}, {}
  for i = 1, #found, 2 do
    if known_places[found[i]] == nil then known_places[found[i]] = parse_place(found[i + 1]) end
    all[found[i]] = known_places[found[i]] or nil
  end
  return all
end

local function places_of_kind(kind)
  local total = 0
  for name in pairs(places()) do
    if place_kind(name) == kind then total = total + 1 end
  end
  return total
end

local function device_place(spec, index)
  return 'device:' .. (spec.host or '') .. '/' .. (spec.gpus and spec.gpus[index + 1] or index)
end

local function host_place(spec)
  return spec.host and 'host:' .. spec.host
end

-- A job's own image counts in a cluster only. A container job has no application.
local function application_place(spec, job)
  local where = spec.host or job and job.image or spec.image
  if not where or job and job.container then return nil end
  return 'application:' .. (spec.application or '') .. '@' .. where
end

-- Whether the probe of a place still holds its slot; and whether it has run for so long that the
-- place works. The scheduler may have sent the probe of a node to another one.
local function probe_of(name, entry)
  if not entry.probe then return false, false end
  local held = redis.call('ZSCORE', K.holders_shared, entry.probe)
    or redis.call('ZSCORE', K.holders_exclusive, entry.probe)
  if not held then return false, false end
  local job = load(entry.delivery)
  local current = job and holder_of(job) == entry.probe
  local elsewhere = current and job.node and 'node:' .. job.node ~= name
  if elsewhere and place_kind(name) == 'node' then return false, false end
  local runs = job and (job.state == 'running' or job.state == 'reporting')
  local proven = runs and current and now - job.started >= PROVEN
  return true, proven
end

-- How a place stands: 'held' (nothing starts there), 'due' (one probe may), nil (it is in use).
local function standing(name)
  local entry = name and place_entry(name)
  if not entry or not entry['until'] then return nil end
  local probing, proven = probe_of(name, entry)
  if proven then return nil end
  if probing or entry['until'] > now then return 'held' end
  return 'due'
end

-- Whether a node is set aside. What goes on there proves nothing: its probe is a cold start.
local function node_aside(node)
  return node ~= nil and standing('node:' .. node) ~= nil
end

local function jobs_in(entry)
  local total = 0
  for _ in pairs(entry.jobs) do total = total + 1 end
  return total
end

-- Room for one more place: the one that failed longest ago goes.
local function make_room()
  local total, oldest = 0, nil
  for name, entry in pairs(places()) do
    total = total + 1
    if not oldest or entry.last < place_entry(oldest).last then oldest = name end
  end
  if total >= MOST_PLACES then forget_place(oldest) end
end

-- Attempts of other jobs that failed here do not count, now that the place is at fault.
local function spare_others(entry, job)
  for id, met in pairs(entry.jobs) do
    local other = id ~= job.id and load(met[1])
    if other and other.state ~= 'ended' and other.state ~= 'finishing' then
      other.spared = (other.spared or 0) + met[2]
      save(other)
    end
  end
end

local function is_hold(name)
  local kind = place_kind(name)
  return HOLD_STAGES[kind] or kind == FINISHES
end

-- An attempt failed at a place. `enough`: how many jobs prove that the place is at fault; `costs`:
-- 1 if the failure counts as one of the job's attempts, else 0. Answer: the entry if the place is
-- set aside, and how many failures of the job here do not count; else nil.
local function fail_at(name, job, holder, error, enough, costs)
  local entry = place_entry(name)
  if not entry then
    make_room()
    entry = { failures = 0, jobs = {}, since = now }
  end
  entry.failures, entry.last = entry.failures + 1, now
  if place_kind(name) == 'device' then entry.domain = job.domain end
  entry.error = shortened(error, is_hold(name) and MOST_OF_HOLD or MOST_ERROR)
  local met = entry.jobs[job.id]
  if met or jobs_in(entry) < MOST_JOBS then
    entry.jobs[job.id] = { job.delivery, (met and met[2] or 0) + costs }
  end
  local spared = costs
  if entry['until'] then
    if entry.probe == holder then
      local longest = is_hold(name) and LONGEST_OF_HOLD or LONGEST_PAUSE
      entry.pause = math.min(longest, entry.pause * 2)
      entry['until'] = now + entry.pause
      entry.probe, entry.delivery = nil, nil
    end
  elseif jobs_in(entry) >= enough then
    entry.pause = FIRST_PAUSE
    entry['until'] = now + entry.pause
    spared = entry.jobs[job.id][2]
    spare_others(entry, job)
  end
  save_place(name, entry)
  if entry['until'] then return entry, spared end
  return nil, 0
end

-- The attempt that a job is granted is the probe of each of these places that is due.
local function probe_places(job, names)
  for _, name in ipairs(names) do
    if standing(name) == 'due' then
      local entry = place_entry(name)
      entry.probe, entry.delivery = holder_of(job), job.delivery
      save_place(name, entry)
      job.probes = job.probes or {}
      job.probes[#job.probes + 1] = name
    end
  end
end

-- Keep the pod of an attempt away from the nodes that are set aside. It is the probe of one that is
-- due, and is sent there if that has room. Answer: the record as text; nil: it has not changed.
local function choose_nodes(job)
  local names, away, soonest = {}, {}, nil
  for name in pairs(places()) do
    if place_kind(name) == 'node' and standing(name) then names[#names + 1] = name end
  end
  if #names == 0 then return nil end
  table.sort(names)
  for _, name in ipairs(names) do
    local entry, node = place_entry(name), string.sub(name, #'node:' + 1)
    if not job.near and standing(name) == 'due' then
      entry.probe, entry.delivery = holder_of(job), job.delivery
      save_place(name, entry)
      job.probes = job.probes or {}
      job.probes[#job.probes + 1], job.near = name, node
    else
      away[#away + 1] = node
      local known = entry['until'] > now and entry['until'] or now + TRIED
      soonest = math.min(soonest or known, known)
    end
  end
  if #away > 0 then job.away, job.away_until = away, soonest end
  return save(job)
end

-- When a place is due next: its probe may start, or it is forgotten (nil: no place has failed).
local function next_place()
  local soonest
  for _, entry in pairs(places()) do
    local probe = entry['until'] or 0
    local at = probe > now and probe or math.max(entry.last, probe) + FORGOTTEN + 1
    if at > now and (not soonest or at < soonest) then soonest = at end
  end
  return soonest
end

-- The sooner one of a time and of one with its text (each may be nil), as text and number.
local function earlier(at, soonest, text)
  if at and (not soonest or at < soonest) then return string.format('%.3f', at), at end
  return text, soonest
end

local function forget_places()
  redis.call('HLEN', K.places) -- a key of another type is told, and is no evidence elsewhere
  for name, entry in pairs(places()) do
    local probing, proven = probe_of(name, entry)
    local idle = math.max(entry.last, entry['until'] or 0) + FORGOTTEN < now
    -- The finishes that waited for it were written otherwise.
    local unused = place_kind(name) == FINISHES and redis.call('ZCARD', K.finishing) == 0
    if proven or unused or (idle and not probing) then forget_place(name) end
  end
  for name, entry in pairs(known_places) do
    if not entry then forget_place(name) end
  end
end

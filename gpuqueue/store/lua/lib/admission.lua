-- Admission: jobs that can start become holders; what cannot start now leaves the line for a time.
-- Needs clock, counts, records, slots, domains, tenants, line, damaged, attempts, server, holds,
-- places, held, warm, waiting_pods, placement, reserved, gate.

-- Seconds until a job is looked at again whose application is being tried, or for which all
-- domains are too small.
local RECHECK, TOO_SMALL = 5, 30

-- The host and the application of the next attempt; its GPU comes later.
local function places_of(spec, job)
  local application = application_place(spec, job)
  return spec.host and { host_place(spec), application } or { application }
end

-- The holds that an attempt meets which must be launched.
local function holds_of(spec, job)
  if spec.host then return {} end
  read_holds()
  local names = { hold_of_image(spec, job) }
  for _, kind in ipairs(CLASS_HOLDS) do
    if is_of_all(kind, spec) then names[#names + 1] = hold_of_class(kind) end
  end
  return names
end

-- Out of line for some seconds, for a reason. Its place is kept.
local function put_off(job, pause, wait, detail)
  -- In the order of the line, if many return at once.
  job.state, job.eta = 'delayed', now + pause + (job.arrival or 0) % 2 ^ 20 / 2 ^ 20
  job.wait, job.detail = wait, detail
  redis.call('ZADD', K.delayed, job.eta, job.delivery)
  tenancy.aside(job)
  if job.expires then redis.call('ZADD', K.expiring, job.expires, job.delivery) end
  save(job)
end

-- Out of line until the application of its image, or the image, may be tried again.
local function put_aside(job, name, wait, spec)
  local entry = place_entry(name)
  leave_line(job)
  local pause = entry['until'] > now and entry['until'] - now or RECHECK
  if wait == HOLD_WAITS.image then
    job.held = job.held or in_line_since(job)
    pause = math.min(pause, waits_until(job, entry, spec) - now)
  end
  put_off(job, pause, wait, entry.error)
end

-- A job that needs more GPUs than any domain has keeps no other one from its turn.
local function put_off_too_large(job, most)
  local words = 'gpu.gpus=%d exceeds the %d exclusive slots of the largest domain of the class;'
    .. ' it waits for a larger one'
  leave_line(job)
  put_off(job, TOO_SMALL, OF_NODES.no_room, string.format(words, slots.of_job(job), most))
end

-- Make the job a holder: its attempt gets a number, a token, a domain and a device. `at`: the
-- domain and the devices that its instance has already. Answer: the record as text.
local function grant(job, ask, v, at)
  local spec = ask.spec
  note_seconds('wait', job, now - in_line_since(job))
  forget_attempt(job)
  job.attempt = (job.attempt or 0) + 1
  job.state = 'launching'
  job.admitted = now
  job.by = ask.by
  local holder = holder_of(job)
  job.token = redis.sha1hex(ask.nonce .. holder)
  job.owner = spec.owner
  job.places = places_of(spec, job)
  local number = slots.of_job(job)
  slots.enter(holder, number)
  if spec.domain then
    -- Where it is to start if it need not keep away from any.
    local chooses = job.avoid and not (at.domain or v.backfills)
    local away = domain.kept_from(v, job.isolation)
    local other = chooses and domain.pick(spec, job.isolation, job, away, number)
    local passes = job.isolation == 'exclusive' and v.passing
    job.domain = at.domain or other or passes and passes.domain or v[job.isolation .. '_domain']
    local ends = domain.planned_end(job, now)
    local own = domain.enter(holder, job.domain, job.isolation, ends, number)
    if job.isolation == 'exclusive' then domain.started_in(job.domain, job, v) end
    job.origin = spec.domain == 'node' and own and own.origin or nil
  end
  if spec.devices > 0 then
    local own = spec.domain == 'device' and { tonumber(job.domain) }
    local devices = at.devices or own or domain.pick_devices(spec, job.isolation, job, number)
    job.device = devices[1]
    if number > 1 then job.all_devices = table.concat(devices, ',') end
    slots.hold_devices(holder, devices)
    for _, index in ipairs(devices) do job.places[#job.places + 1] = device_place(spec, index) end
  end
  -- The leader may not have noted yet how many slots there are.
  local used = { shared = v.shared_running, exclusive = v.exclusive_running }
  used[job.isolation] = used[job.isolation] + number
  domain.widen(used)
  probe_places(job, job.places)
  if spec.domain == 'node' then probe_places(job, { domain.place(spec, job.domain) }) end
  if not spec.goes_on then probe_places(job, holds_of(spec, job)) end
  if #job.places == 0 then job.places = nil end
  redis.call('ZADD', K['holders_' .. job.isolation], now, holder)
  redis.call('ZADD', K.launching, now, holder)
  return save(job)
end

-- The hold for which a job has waited too long; nil: none.
local function held_for_long(job, spec)
  if spec.host or spec.goes_on or not spec.held_timeout then return nil end
  for _, name in ipairs(holds_of(spec, job)) do
    if standing(name) == 'held' and outlasts(job, place_entry(name), spec) then return name end
  end
  return nil
end

-- The isolation whose first job has waited for a hold for too long; nil: none has.
local function outlasting(v, ask)
  local may = v.opened and v.aside and ask.spec.held_timeout
  if not may then return nil end
  for _, isolation in ipairs({ 'shared', 'exclusive' }) do
    local job = v[isolation] and load(v[isolation])
    if job and held_for_long(job, ask.spec) then return isolation end
  end
  return nil
end

-- The first job that can start. Each job that is looked at uses up the `budget`: one that starts,
-- one that has expired, and a leftover. With a new budget, the domains are compared with the spec.
-- `ask`: the context of admit. Answer: the job, and what the decision depends on; nil if none can
-- start, or the budget is used up.
local function startable(ask, budget)
  local spec = ask.spec
  if domain.is_elsewhere(spec) then return nil end
  while true do
    local v = look(spec)
    local changed = v.unkept
    if v.unkept then slots.keep() end
    if not budget.kept then
      changed = domain.keep(spec, v) or changed
      budget.kept = true
    end
    if tenancy.keep(spec, budget, v) or changed then v = look(spec) end
    v = domain.keep_drained(v, spec)
    local too_small = v.opened and domain.too_small_for(v.needs, spec)
    local isolation, delivery
    if too_small then
      isolation, v.passing = 'exclusive', nil
    else
      isolation, delivery = decide(v, spec)
      local waits = v.opened and not v.aside and delivery ~= v.exclusive
      if v.needs > 1 and waits then tenancy.keep_turn(v.exclusive) end
    end
    if not isolation then isolation = outlasting(v, ask) end
    if not isolation then return nil end
    delivery = delivery or v[isolation]
    if budget.spent >= ask.most then
      budget.over = true
      return nil
    end
    -- What runs is compared with the holders first: this server may not know of it.
    if budget.spent == 0 and is_elsewhere(v.opened, v.opened_on) then
      redis.call('HDEL', K.gate, 'opened')
      return nil
    end
    local job, weight = load_or_set_aside(delivery)
    budget.spent = budget.spent + weight
    if not job or job.state ~= 'waiting' or job.isolation ~= isolation then
      -- A leftover: no job waits under this name here.
      redis.call('ZREM', K['waiting_' .. isolation], delivery)
      tenancy.drop(isolation, job)
      if job then put_back(job) end
    elseif job.expires and job.expires <= now then
      leave_line(job)
      hand_to_finish(job, 'EXPIRED')
    elseif slots.of_job(job) > 1 and not v.several then
      slots.keep() -- the gate was lost
    elseif too_small then
      put_off_too_large(job, too_small)
    elseif held_for_long(job, spec) then
      end_held(job, held_for_long(job, spec), spec)
    elseif standing(application_place(spec, job)) == 'held' then
      put_aside(job, application_place(spec, job), 'APPLICATION_HELD', spec)
    elseif not spec.goes_on and standing(hold_of_image(spec, job)) == 'held' then
      put_aside(job, hold_of_image(spec, job), HOLD_WAITS.image, spec)
    else
      return job, v
    end
  end
end

-- Take a job that can start out of line, and make it a holder. If that fails it is in line again,
-- since a script that fails keeps what it has written. Answer: that of grant.
local function give_slot(job, v, ask, at)
  local delivery = job.delivery
  local done, text = pcall(function()
    count_start(v, job.isolation)
    leave_line(job, true)
    local granted = grant(job, ask, v, at or {})
    tenancy.started(job)
    return granted
  end)
  if done then return text end
  local known = load(delivery)
  if known and known.state == 'waiting' then pcall(take_place, known) end
  error(text, 0)
end

-- Start every job that can start. Answer: {whether the budget was used up (0|1), record (JSON) of
-- each that must be launched...}
local function admit(ask)
  local granted, budget = { 0 }, { spent = 0 }
  while true do
    local job, v = startable(ask, budget)
    if not job then break end
    local text = give_slot(job, v, ask)
    if wake_pod(job, ask.spec) then
      count('warm', job)
    else
      -- A node that is a domain was chosen by its place.
      if not (ask.spec.host or ask.spec.domain) then text = choose_nodes(job) or text end
      if domain.is_unbound(job.domain) then text = domain.keep_off(job) or text end
      granted[#granted + 1] = text
      make_way(job, ask.spec)
    end
  end
  if budget.over then granted[1] = 1 end
  return granted
end

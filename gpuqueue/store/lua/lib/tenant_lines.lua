-- The lines of tenants are made again from records: at first, and if another version has changed
-- the whole line, or a key was lost. Needs clock, records, slots, tenants.

do
  local PHASES = { 'waiting_shared', 'waiting_exclusive', 'delayed' }
  local OWN = {
    'tenants',
    'tenant_rules',
    'tenant_jobs',
    'tenant_order',
    'tenant_running',
    'tenant_charged',
    'tenant_idle',
  }
  -- How many names one call sorts, looks over, and charges.
  local SORTED, LOOKED_OVER, CHARGED = 256, 16, 16
  -- Seconds: between two charges of a holder, for each so many of them, so that a second has a
  -- bounded number of charges; after how long sorted lines are compared again.
  local GRAIN, HOLDERS_OF_GRAIN, SETTLED = 1, 100, 5
  local class, KIND, MARK = tenancy.class, tenancy.KIND, tenancy.MARK
  local kept
  local size, tenant_of, state_of, name_of =
    tenancy.size, tenancy.tenant_of, tenancy.state_of, tenancy.name_of
  local made_state, rule_of, member_of, refresh =
    tenancy.made_state, tenancy.rule_of, tenancy.member_of, tenancy.refresh
  local refresh_all, settle, write_order, read_order =
    tenancy.refresh_all, tenancy.settle, tenancy.write_order, tenancy.read_order

  -- Count the holders of each tenant again. Their number has a bound: that of the slots.
  local function count_holders()
    local touched = {}
    for _, holder in ipairs(redis.call('ZRANGE', K.tenant_running, 0, -1)) do
      local name = name_of(math.floor(tonumber(redis.call('ZSCORE', K.tenant_running, holder)) / 4))
      if name then touched[name] = true end
    end
    redis.call('DEL', K.tenant_running)
    for isolation in pairs(KIND) do
      for _, holder in ipairs(redis.call('ZRANGE', K['holders_' .. isolation], 0, -1)) do
        local job = load(delivery_of(holder) or '') or {}
        local name = tenant_of(job)
        local line = made_state(name).id * 4
        redis.call('ZADD', K.tenant_running, line + KIND[isolation], holder)
        redis.call('ZADD', K.tenant_charged, 'NX', now, holder)
        local number = slots.of_job(job) > 1 and slots.of_holder(holder) or 1
        for _, further in ipairs(slots.further(holder, number)) do
          redis.call('ZADD', K.tenant_running, line + 3, further)
          redis.call('ZADD', K.tenant_charged, 'NX', now, further)
        end
        touched[name] = true
      end
    end
    return touched
  end

  -- Make all lines again.
  local function begin()
    class.order, class.phase, class.score, class.skip, class.lost = 'sorting', 1, '-inf', 0, false
    write_order()
    redis.call('DEL', K.tenant_jobs, K.tenant_order)
    redis.call('ZADD', K.tenant_order, 9, MARK)
    redis.call('HSET', K.tenants, MARK, 1)
    count_holders()
  end

  -- Put a name of a line in the line of its tenant. One that no script can read comes first in that
  -- of jobs without a tenant, where it is set aside.
  local function sort_one(key, delivery, touched)
    local job, weight = load(delivery)
    local aside, isolation = key == 'delayed', string.match(key, '^waiting_(.*)$')
    local name = job and tenant_of(job) or ''
    local place = aside and 'd:' .. delivery
    if not place then
      local good = job and job.isolation == isolation
      place = member_of(good and job or { isolation = isolation, delivery = delivery })
    end
    local line = made_state(name).id * 4 + (aside and 2 or KIND[isolation])
    redis.call('ZADD', K.tenant_jobs, line, place)
    touched[name] = true
    return weight
  end

  -- Whether any tenant or rule is known.
  local function is_used()
    local unnamed = state_of('') and 3 or 1 -- fields of K.tenants
    local named = redis.call('HLEN', K.tenants) > unnamed
    return named or redis.call('HEXISTS', K.tenant_rules, 'epoch') == 1
  end

  local function sort_some()
    local left, touched = SORTED, {}
    while left > 0 and class.phase <= #PHASES do
      local key = PHASES[class.phase]
      local from, skip, most = class.score, class.skip, SORTED
      local found =
        redis.pcall('ZRANGE', K[key], from, '+inf', 'BYSCORE', 'LIMIT', skip, most, 'WITHSCORES')
      if found.err then found = {} end
      for i = 1, #found, 2 do
        if left <= 0 then break end
        left = left - sort_one(key, found[i], touched)
        class.skip = found[i + 1] == class.score and class.skip + 1 or 1
        class.score = found[i + 1]
      end
      if left > 0 then
        class.phase, class.score, class.skip = class.phase + 1, '-inf', 0
      end
    end
    refresh_all(touched)
    if class.phase > #PHASES then
      class.order, class.since = 'tenants', now
      if not is_used() then
        class.order = 'arrival'
        for _, key in ipairs(OWN) do redis.call('DEL', K[key]) end
      end
    end
    write_order()
  end

  -- Whether another version has changed the lines, or a key was lost.
  local function differs()
    if class.lost or not redis.call('ZSCORE', K.tenant_order, MARK) then return true end
    if redis.call('HEXISTS', K.tenants, MARK) == 0 then return true end
    local waiting, sorted = 0, size('tenant_jobs')
    for _, key in ipairs(PHASES) do waiting = waiting + size(key) end
    -- Another version may change them all the time.
    return sorted ~= waiting and (sorted == 0 or math.abs(now - class.since) >= SETTLED)
  end

  -- Answer: whether any holder was due for a charge. `holders`: how many there are.
  local function charge_running(holders)
    local grain = GRAIN * math.max(1, holders / HOLDERS_OF_GRAIN)
    local before, touched = now - grain, {}
    local key, most = K.tenant_charged, CHARGED
    local found =
      redis.call('ZRANGE', key, '-inf', before, 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
    for i = 1, #found, 2 do
      local name = settle(found[i], tonumber(found[i + 1]))
      if name then
        touched[name] = true
        redis.call('ZADD', K.tenant_charged, now, found[i])
      else
        redis.call('ZREM', K.tenant_charged, found[i])
      end
    end
    refresh_all(touched)
    return #found > 0
  end

  -- The part of a GPU that a shared slot is.
  local function note_share(spec)
    if not class.share then rule_of('') end -- each look for a rule tells it
    local shared, whole_ones = spec.shared_slots, math.max(1, spec.exclusive_slots)
    local own = shared > 0 and math.min(1, whole_ones / shared) or 1
    if string.format('%.6f', own) == string.format('%.6f', class.share) then return end
    class.share = tonumber(string.format('%.6f', own))
    redis.call('HSET', K.tenant_rules, 'share', string.format('%.6f', own))
  end

  -- Bring the order up to date, once in a script. `v`: what the decision depends on. Answer:
  -- whether it may have changed.
  function tenancy.keep(spec, budget, v)
    if kept or not tenancy.on() then return false end
    kept = true
    note_share(spec)
    if class.order == 'tenants' and differs() then begin() end
    local running, held = size('tenant_running'), v.holders + (v.several and slots.beyond() or 0)
    local other = running ~= held or size('tenant_charged') ~= held
    if other then refresh_all(count_holders()) end
    local sorts = class.order == 'sorting'
    if sorts then sort_some() end
    if class.order == 'sorting' then budget.over = true end
    -- Also where lines were made again: what was used since then decides, too.
    return charge_running(running) or other or sorts
  end

  -- A class that an older version has kept may have jobs of tenants.
  function tenancy.look_once()
    if read_order() == '' then begin() end
  end

  -- Compare some of the whole line with the lines of tenants: what was lost comes back.
  function tenancy.look_over()
    if not tenancy.on() then return end
    local at = tonumber(redis.call('HGET', K.gate, 'looked_over') or 0) or 0
    local touched, seen = {}, 0
    for isolation, kind in pairs(KIND) do
      local found = redis.call('ZRANGE', K['waiting_' .. isolation], at, at + LOOKED_OVER - 1)
      for _, delivery in ipairs(found) do
        local job = load(delivery)
        if job and job.state == 'waiting' and job.isolation == isolation then
          local name = tenant_of(job)
          redis.call('ZADD', K.tenant_jobs, made_state(name).id * 4 + kind, member_of(job))
          touched[name] = true
        end
      end
      seen = math.max(seen, #found)
    end
    refresh_all(touched)
    if at > 0 or seen == LOOKED_OVER then
      redis.call('HSET', K.gate, 'looked_over', seen == LOOKED_OVER and at + LOOKED_OVER or 0)
    end
  end

  -- Rules have changed: those of named tenants, or (nil) of all.
  function tenancy.changed(names)
    tenancy.forget_rules()
    if class.order ~= 'tenants' and read_order() ~= 'tenants' or not names then
      begin()
    else
      for _, name in ipairs(names) do
        if state_of(name) then refresh(name) end
      end
    end
  end

  tenancy.begin = begin
end

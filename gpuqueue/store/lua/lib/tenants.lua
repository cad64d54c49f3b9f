-- Tenants of a class: whose job is next, by their rules and their use of GPUs. Needs clock,
-- records.
--
-- A class without tenants has one line, by rank. The first job with a tenant, or the first rule,
-- changes that. Field `order` of K.gate:
--   absent: an older version has kept the class, or none (see look_once);
--   'arrival': no tenant is known;
--   'sorting PHASE SCORE SKIP': the lines of tenants are made from records, some in each call, and
--     jobs start in the order of the whole line until then;
--   'tenants SINCE': by tenants.
-- All keys are made again from records if they are lost. A score of K.tenant_jobs or
-- K.tenant_running is 4 * id of the tenant + 0 (shared), 1 (exclusive), 2 (delayed) or 3 (a further
-- slot of a job of several GPUs). Limits count jobs; what tenants use counts slots.
--
-- Field `turn` of K.gate: the job of several GPUs that was first, and must wait. It stays before
-- jobs of its priority until it leaves the line: while it was first, slots were kept free for it,
-- and those of a tenant that uses less would take them, one by one, without an end.

local ARRIVALS = 2 ^ 45 -- a rank is priority * ARRIVALS + arrival; both stay exact in a double
-- What is known of tenants, and of their class (`class`). Their lines are made in tenant_lines, and
-- what happens to jobs is in tenant_turns.
-- MARK: a member of K.tenant_order and field of K.tenants that stays: without it, the key was lost.
-- TURN: in the place of a tenant whose first job has the turn, for what it has used.
local tenancy = { class = {}, KIND = { shared = 0, exclusive = 1 }, MARK = '.' }
tenancy.TURN = string.format('%022.6f%016.0f%016.0f', 0, 0, 0)

do
  -- Seconds of a half-life if none is set; how many of them a tenant without jobs is kept, and how
  -- many such tenants.
  local HALF_LIFE, KEPT_FOR, MOST_IDLE = 86400, 20, 4096
  local LOG2 = math.log(2)
  local class, KIND, LETTER = tenancy.class, tenancy.KIND, { shared = 's', exclusive = 'x' }
  local states, texts, rules = {}, {}, {}

  -- How much a line has. A key of another type, which fails its own step, has nothing.
  local function size(key)
    local number = redis.pcall('ZCARD', K[key])
    return type(number) == 'number' and number or 0
  end

  local function read_order()
    if class.order then return class.order end
    local found = redis.pcall('HMGET', K.gate, 'order', 'turn')
    local text = found[1] or ''
    class.turn = found[2] or nil
    class.order = string.match(text, '^%a+') or ''
    if class.order == 'sorting' then
      class.phase, class.score, class.skip = string.match(text, '^%a+ (%d) (%S+) (%d+)$')
      class.phase, class.skip = tonumber(class.phase or 1), tonumber(class.skip or 0)
      class.score = class.score or '-inf'
    end
    class.since = class.order == 'tenants' and tonumber(string.match(text, ' (%S+)$')) or 0
    return class.order
  end

  local function write_order()
    local text = class.order
    if class.order == 'sorting' then
      text = string.format('sorting %d %s %d', class.phase, class.score, class.skip)
    end
    if class.order == 'tenants' then text = string.format('tenants %.3f', class.since) end
    redis.call('HSET', K.gate, 'order', text)
  end

  -- Whether lines of tenants exist.
  function tenancy.on()
    return read_order() == 'tenants' or class.order == 'sorting'
  end

  -- A name of another form than a message may have counts as none.
  local function tenant_of(job)
    local name = job.tenant
    local good = type(name) == 'string' and #name <= 63 and not string.find(name, '[^%w._-]')
    return good and name or ''
  end

  local function whole(value)
    return type(value) == 'number' and value >= 0 and value < 2 ^ 52 and value == math.floor(value)
  end

  local function number(value)
    return type(value) == 'number' and value >= 0 and value < math.huge
  end

  -- A state as text: id, when it was served last (0: never), what it has used, decayed, and in all,
  -- the time of both, whether it is idle, its places in K.tenant_order ('': none).
  local function packed(state)
    return cjson.encode({
      state.id,
      state.served,
      state.usage,
      state.total,
      state.at,
      state.idle and 1 or 0,
      state.shared or '',
      state.exclusive or '',
    })
  end

  -- The state of a text; nil: it is damaged.
  local function unpacked(text)
    local parts = decoded(text)
    if not parts then return nil end
    local id, served, usage, total, at, idle, shared, exclusive = unpack(parts, 1, 8)
    if not (whole(id) and whole(served) and number(usage) and number(total) and number(at)) then
      return nil
    end
    if type(shared) ~= 'string' or type(exclusive) ~= 'string' then return nil end
    local state = { id = id, served = served, usage = usage, total = total, at = at }
    state.idle = idle == 1 or nil
    state.shared = shared ~= '' and shared or nil
    state.exclusive = exclusive ~= '' and exclusive or nil
    return state
  end

  local function state_of(name)
    if states[name] == nil then
      texts[name] = redis.call('HGET', K.tenants, '=' .. name)
      states[name] = unpacked(texts[name]) or false
    end
    return states[name] or nil
  end

  -- A counter of K.gate. A damaged one starts again above all that were given.
  local function counted(field)
    local next = redis.pcall('HINCRBY', K.gate, field, 1)
    if type(next) == 'number' then return next end
    local above = math.floor(now * 1000)
    redis.call('HSET', K.gate, field, string.format('%.0f', above))
    return above
  end

  local function save_state(name, state)
    local text = packed(state)
    if text == texts[name] then return end
    texts[name] = text
    redis.call('HSET', K.tenants, '=' .. name, text)
  end

  local function name_of(id)
    return redis.call('HGET', K.tenants, string.format('#%.0f', id))
  end

  local function forget(name)
    local state = state_of(name)
    redis.call('ZREM', K.tenant_idle, '=' .. name)
    if not state then return end
    for isolation in pairs(KIND) do
      if state[isolation] then redis.call('ZREM', K.tenant_order, state[isolation]) end
    end
    redis.call('HDEL', K.tenants, '=' .. name, string.format('#%.0f', state.id))
    states[name], texts[name] = false, false
  end

  local function made_state(name)
    local state = state_of(name)
    if state then return state end
    if redis.call('ZCARD', K.tenant_idle) >= MOST_IDLE then
      local oldest = redis.call('ZRANGE', K.tenant_idle, 0, 0)[1]
      forget(string.sub(oldest, 2))
    end
    -- In place of a damaged one, under whose id names are in lines.
    if texts[name] then redis.call('HDEL', K.tenants, tenancy.MARK) end
    state = { id = counted('tenant'), served = 0, usage = 0, total = 0, at = now }
    states[name] = state
    redis.call('HSET', K.tenants, string.format('#%.0f', state.id), name)
    save_state(name, state)
    return state
  end

  local function parsed(text)
    return decoded(text) or {}
  end

  -- The rule of a tenant: its own, else that of all others.
  local function rule_of(name)
    if rules[name] then return rules[name] end
    local found = redis.call('HMGET', K.tenant_rules, '=' .. name, '*', 'half_life', 'share')
    local entry, rule = parsed(found[1] or found[2]), {}
    for _, field in ipairs({ 'max_running', 'max_queued', 'guaranteed' }) do
      if whole(entry[field]) then rule[field] = entry[field] end
    end
    local weight = entry.weight
    rule.weight = type(weight) == 'number' and weight > 0 and weight < math.huge and weight or 1
    local seconds = parsed(found[3]).seconds
    local good = type(seconds) == 'number' and (seconds == 0 or seconds >= 1)
    class.half_life = good and seconds or HALF_LIFE
    class.share = tonumber(found[4]) or 1
    rules[name] = rule
    return rule
  end

  function tenancy.forget_rules()
    rules, class.half_life = {}, nil
  end

  -- By priority, then arrival.
  local function member_of(job)
    local priority = math.max(0, math.min(99, math.floor(job.priority or 0)))
    local place = string.format('%02d%014.0f', priority, job.arrival or 0)
    return LETTER[job.isolation] .. place .. ':' .. job.delivery
  end

  -- `at`: for another one than the first, from 0.
  local function first_of_line(state, kind, at)
    local line = state.id * 4 + kind
    return redis.call('ZRANGE', K.tenant_jobs, line, line, 'BYSCORE', 'LIMIT', at or 0, 1)[1]
  end

  -- How many jobs a tenant runs, of one isolation or of both; how many slots it has: kinds 0 to 3.
  local function running(state, kind, last)
    local first = state.id * 4
    return redis.call('ZCOUNT', K.tenant_running, first + (kind or 0), first + (last or kind or 1))
  end

  -- What a tenant has used, over its weight. The scale of decayed use grows with time, so that its
  -- logarithm needs no change while nothing is used.
  local function cost(state, rule)
    if class.half_life == 0 then
      return running(state, 0, 3) / rule.weight
    elseif state.usage <= 0 then
      return 0
    end
    return 2000 + math.log(state.usage / rule.weight) / LOG2 + state.at / class.half_life
  end

  -- The place of a tenant in K.tenant_order, as text: first one below its guaranteed share, then by
  -- the priority of its first job, then one whose job has the turn, then by what it has used, then
  -- the one served least recently, then the one that came first.
  local function front_of(name, state, isolation, first, held)
    local rule = rule_of(name)
    local tier = held < (rule.guaranteed or 0) and 0 or 1
    local used = string.format('%022.6f%016.0f', cost(state, rule), state.served)
    used = used .. string.format('%016.0f', state.id)
    local has_turn = isolation == 'exclusive' and class.turn == string.match(first, ':(.*)$')
    if has_turn then used = tenancy.TURN end
    return LETTER[isolation] .. tier .. string.sub(first, 2, 3) .. used .. ':' .. name
  end

  -- Keep a tenant in its place, after any change of what it has, or may have.
  local function refresh(name)
    local state, rule = made_state(name), rule_of(name)
    local held, busy = running(state, 0, 3), false
    local limited = rule.max_running and held >= rule.max_running
    limited = limited and running(state) >= rule.max_running
    for isolation, kind in pairs(KIND) do
      local first = first_of_line(state, kind)
      local front = first and not limited and front_of(name, state, isolation, first, held) or nil
      local before = state[isolation]
      if before and before ~= front then redis.call('ZREM', K.tenant_order, before) end
      if front then redis.call('ZADD', K.tenant_order, kind, front) end
      state[isolation], busy = front, busy or first ~= nil
    end
    if busy or held > 0 or first_of_line(state, 2) then
      if state.idle then redis.call('ZREM', K.tenant_idle, '=' .. name) end
      state.idle = nil
    elseif not state.idle then
      local seconds = state.usage > 0 and KEPT_FOR * class.half_life or class.half_life
      redis.call('ZADD', K.tenant_idle, now + math.max(60, seconds), '=' .. name)
      state.idle = true
    end
    save_state(name, state)
  end

  local function refresh_all(names)
    for name in pairs(names) do refresh(name) end
  end

  -- Charge a tenant some seconds of a slot. A shared one is a part of a GPU.
  local function charge(name, kind, seconds)
    local state = made_state(name)
    rule_of(name)
    local used = math.max(0, seconds) * (kind == 0 and class.share or 1)
    state.total = state.total + used
    if class.half_life == 0 then return end
    local decay = 2 ^ math.min(0, (state.at - now) / class.half_life)
    state.usage, state.at = state.usage * decay + used, math.max(now, state.at)
  end

  -- Charge the use of a slot up to now. Answer: the tenant; nil: the holder is not known.
  local function settle(holder, charged)
    local line = tonumber(redis.call('ZSCORE', K.tenant_running, holder))
    local name = line and name_of(math.floor(line / 4))
    if not name then return nil end
    charge(name, line % 4, now - (charged or now))
    return name
  end

  -- A tenant without jobs is forgotten.
  function tenancy.forget(entry)
    local name = string.sub(entry, 2)
    local state = state_of(name)
    if state and state.idle then forget(name) end
  end

  tenancy.counted = counted
  tenancy.first_of_line = first_of_line
  tenancy.front_of = front_of
  tenancy.made_state = made_state
  tenancy.member_of = member_of
  tenancy.name_of = name_of
  tenancy.read_order = read_order
  tenancy.refresh = refresh
  tenancy.refresh_all = refresh_all
  tenancy.rule_of = rule_of
  tenancy.running = running
  tenancy.settle = settle
  tenancy.size = size
  tenancy.state_of = state_of
  tenancy.tenant_of = tenant_of
  tenancy.write_order = write_order
end

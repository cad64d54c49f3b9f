-- What happens to the jobs of tenants: they come into line, start and end; and whose turn it is.
-- Needs clock, records, slots, tenants, tenant_lines.

do
  local class, KIND = tenancy.class, tenancy.KIND
  local chosen, waits = {}, {}
  local tenant_of, state_of, name_of, made_state =
    tenancy.tenant_of, tenancy.state_of, tenancy.name_of, tenancy.made_state
  local rule_of, member_of, first_of_line, running =
    tenancy.rule_of, tenancy.member_of, tenancy.first_of_line, tenancy.running
  local refresh, settle, counted = tenancy.refresh, tenancy.settle, tenancy.counted

  -- Make a job a holder of so many slots in the name of its tenant. Answer: their names.
  local function hold(job)
    local line, holder = made_state(tenant_of(job)).id * 4, holder_of(job)
    redis.call('ZADD', K.tenant_running, line + KIND[job.isolation], holder)
    local names = slots.further(holder, slots.of_job(job))
    for _, name in ipairs(names) do redis.call('ZADD', K.tenant_running, line + 3, name) end
    table.insert(names, 1, holder)
    return names
  end

  -- The first job of an isolation: its delivery and rank.
  function tenancy.first(isolation)
    local key, kind = K['waiting_' .. isolation], KIND[isolation]
    chosen[isolation], waits[isolation] = nil, nil
    if class.order == 'sorting' then
      local found = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
      local job = found[1] and load(found[1])
      waits[isolation] = found[1] ~= nil
      if job and tenancy.limited(job) then return nil end
      return found[1], tonumber(found[2])
    end
    local front = redis.call('ZRANGE', K.tenant_order, kind, kind, 'BYSCORE', 'LIMIT', 0, 1)[1]
    if not front then
      waits[isolation] = redis.call('ZCARD', key) > 0
      return nil
    end
    local name = string.match(front, ':(.*)$')
    local state = state_of(name)
    local member = state and first_of_line(state, kind)
    local priority, arrival, delivery = string.match(member or '', '^%a(%d%d)(%d+):(.*)$')
    if not delivery then
      class.lost = true
      local found = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
      waits[isolation] = found[1] ~= nil
      return found[1], tonumber(found[2])
    end
    waits[isolation] = true
    chosen[isolation] = { name = name, front = string.sub(front, 2), member = member }
    return delivery, tonumber(priority) * ARRIVALS + tonumber(arrival)
  end

  -- The jobs of an isolation behind the first one, in order, at most so many. Each has a delivery,
  -- a rank, and the front of its tenant if it were that of its first job.
  function tenancy.behind(isolation, most)
    local own, kind = chosen[isolation], KIND[isolation]
    if not own or class.order == 'sorting' then return {} end
    local tops, jobs = {}, {}
    local fronts = redis.call('ZRANGE', K.tenant_order, kind, kind, 'BYSCORE', 'LIMIT', 0, most + 1)
    for _, front in ipairs(fronts) do
      local name = string.match(front, ':(.*)$')
      local state = state_of(name)
      local member = state and first_of_line(state, kind)
      if not member then return {} end -- a key was lost
      tops[#tops + 1] = { name = name, state = state, front = front, member = member, at = 0 }
    end
    for turn = 0, most do
      local best
      for i, top in ipairs(tops) do
        if not best or top.front < tops[best].front then best = i end
      end
      if not best then break end
      local top = tops[best]
      local priority, arrival, delivery = string.match(top.member, '^%a(%d%d)(%d+):(.*)$')
      if turn > 0 then
        local rank = tonumber(priority) * ARRIVALS + tonumber(arrival)
        local front = string.sub(top.front, 2)
        jobs[#jobs + 1] = { delivery = delivery, rank = rank, front = front }
      end
      top.at = top.at + 1
      top.member = first_of_line(top.state, kind, top.at)
      if top.member then
        local held = running(top.state, 0, 3)
        top.front = tenancy.front_of(top.name, top.state, isolation, top.member, held)
      else
        table.remove(tops, best)
      end
    end
    return jobs
  end

  -- Which of two isolations goes first that both could start; nil: by rank. `passing`: the job that
  -- starts before the first exclusive one; nil: that one starts.
  function tenancy.before(passing)
    local shared, exclusive = chosen.shared, passing or chosen.exclusive
    if not (shared and exclusive) or shared.front == exclusive.front then return nil end
    return shared.front < exclusive.front and 'shared' or 'exclusive'
  end

  -- Whether jobs of an isolation wait, although none may be next: their tenants are at a limit.
  function tenancy.waits(isolation)
    return waits[isolation]
  end

  -- Take the first of an isolation out of its line, which no job waits under. One that waits under
  -- the name of another tenant goes there.
  function tenancy.drop(isolation, job)
    local own = chosen[isolation]
    if not own then return end
    redis.call('ZREM', K.tenant_jobs, own.member)
    refresh(own.name)
    if job and job.state == 'waiting' then tenancy.enter(job) end
  end

  local function place(job, line, member, other)
    local name = tenant_of(job)
    if not tenancy.on() then
      if name == '' then return end
      tenancy.begin()
    end
    redis.call('ZREM', K.tenant_jobs, other)
    redis.call('ZADD', K.tenant_jobs, made_state(name).id * 4 + line, member)
    refresh(name)
  end

  -- A job has come into line.
  function tenancy.enter(job)
    place(job, KIND[job.isolation], member_of(job), 'd:' .. job.delivery)
  end

  -- A job waits for a time.
  function tenancy.aside(job)
    place(job, 2, 'd:' .. job.delivery, member_of(job))
  end

  -- A job has left the line, and waits for no time. `starts`: tenancy.started comes next.
  function tenancy.leave(job, starts)
    if not tenancy.on() then return end
    local name = tenant_of(job)
    local gone = redis.call('ZREM', K.tenant_jobs, member_of(job), 'd:' .. job.delivery)
    if gone > 0 and not starts then refresh(name) end
  end

  -- No job waits for a time under this name.
  function tenancy.forget_delay(delivery)
    if tenancy.on() then redis.call('ZREM', K.tenant_jobs, 'd:' .. delivery) end
  end

  -- A job has become a holder.
  function tenancy.started(job)
    local name = tenant_of(job)
    if not tenancy.on() then
      if name ~= '' then tenancy.begin() end
      return
    end
    for _, each in ipairs(hold(job)) do redis.call('ZADD', K.tenant_charged, now, each) end
    made_state(name).served = counted('served')
    refresh(name)
  end

  -- A holder of so many slots has gone.
  function tenancy.ended(holder, number)
    if not tenancy.on() then return end
    local tenant
    for _, each in ipairs({ holder, unpack(slots.further(holder, number or 1)) }) do
      local name = settle(each, tonumber(redis.call('ZSCORE', K.tenant_charged, each)))
      redis.call('ZREM', K.tenant_running, each)
      redis.call('ZREM', K.tenant_charged, each)
      tenant = tenant or name
    end
    if tenant then refresh(tenant) end
  end

  -- Decide without a holder of so many slots for a moment. Answer: what gives it back.
  function tenancy.without(holder, number)
    local line = tenancy.on() and redis.call('ZSCORE', K.tenant_running, holder)
    local name = line and name_of(math.floor(tonumber(line) / 4))
    if not name then return function() end end
    local further = slots.further(holder, number)
    redis.call('ZREM', K.tenant_running, holder, unpack(further))
    refresh(name)
    return function()
      if not tenancy.on() then return end
      local own = made_state(name).id * 4
      redis.call('ZADD', K.tenant_running, own + tonumber(line) % 4, holder)
      for _, each in ipairs(further) do redis.call('ZADD', K.tenant_running, own + 3, each) end
      refresh(name)
    end
  end

  -- Whether the tenant of a job runs as many as it may.
  function tenancy.limited(job)
    if not tenancy.on() then return false end
    local name = tenant_of(job)
    local most, state = rule_of(name).max_running, state_of(name)
    return most ~= nil and (state and running(state) or 0) >= most
  end

  -- Why a job may not be accepted; nil: it may. A delivery that follows another one of its task
  -- continues it.
  function tenancy.refusal(job)
    if (job.retries or 0) > 0 or (job.nesting or 0) > 0 or not tenancy.on() then return nil end
    local name = tenant_of(job)
    local most, state = rule_of(name).max_queued, state_of(name)
    if not most then return nil end
    local first = state and state.id * 4
    local queued = state and redis.call('ZCOUNT', K.tenant_jobs, first, first + 2) or 0
    if queued < most then return nil end
    local words = "gpu.tenant='%s' has %d queued jobs, and max_queued=%d in the class %s; send it"
      .. ' when some have started, or raise max_queued (gpuqueue tenants set)'
    return string.format(words, name, queued, most, job.gpu_class or '')
  end

  local function described(name, state)
    local rule, counts = rule_of(name), {}
    for kind = 0, 2 do
      local line = state.id * 4 + kind
      counts[kind + 1] = redis.call('ZCOUNT', K.tenant_jobs, line, line)
    end
    local shared, exclusive = running(state, 0), running(state, 1)
    local limited = rule.max_running and shared + exclusive >= rule.max_running
    local decay = class.half_life > 0 and 2 ^ math.min(0, (state.at - now) / class.half_life) or 0
    return {
      name,
      counts[1],
      counts[2],
      counts[3],
      shared,
      exclusive,
      string.format('%.3f', state.total),
      string.format('%.3f', state.usage * decay),
      limited and 1 or 0,
    }
  end

  -- Add the tenants that have members in K.tenant_running or K.tenant_jobs to those that are
  -- `found`, by name, until there are `most`. Answer: how many there are.
  local function add_busy(key, found, number, most)
    local from = '-inf'
    while number < most do
      local first =
        redis.call('ZRANGE', K[key], from, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
      if not first[1] then break end
      local id = math.floor(tonumber(first[2]) / 4)
      local name = name_of(id)
      local state = name and state_of(name)
      if state and not found[name] then
        found[name], number = state, number + 1
      end
      from = string.format('%.0f', id * 4 + 4)
    end
    return number
  end

  -- At most so many tenants, by name: those that run jobs, then those with others, then those that
  -- were served last. What it costs depends on their number alone.
  local function some_tenants(most)
    local found = {}
    local number = add_busy('tenant_running', found, 0, most)
    number = add_busy('tenant_jobs', found, number, most)
    if number >= most then return found end
    for _, entry in ipairs(redis.call('ZRANGE', K.tenant_idle, 0, most - number - 1, 'REV')) do
      local name = string.sub(entry, 2)
      found[name] = state_of(name)
    end
    return found
  end

  -- The tenants of a class; see tenants.lua.
  function tenancy.list(most)
    local found = {}
    for name, state in pairs(some_tenants(most)) do
      found[#found + 1] = { name, state }
    end
    table.sort(found, function(one, other)
      local busy = not one[2].idle
      if busy == (other[2].idle or false) then return busy end
      if one[2].served ~= other[2].served then return one[2].served > other[2].served end
      return one[1] < other[1]
    end)
    rule_of('')
    local known = redis.call('HGETALL', K.tenant_rules)
    local epoch = redis.call('HGET', K.tenant_rules, 'epoch') or '0'
    local marked = redis.call('HEXISTS', K.tenants, tenancy.MARK)
    local total = math.floor((redis.call('HLEN', K.tenants) - marked) / 2)
    local answer = { tonumber(epoch) or 0, tostring(class.half_life), total, known }
    for _, each in ipairs(found) do answer[#answer + 1] = described(each[1], each[2]) end
    return answer
  end
end

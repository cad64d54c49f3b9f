-- Accounting: what each attempt has used that held a slot, written where the slot is freed. Needs
-- clock, counts, records, slots. WASTED, the reasons of attempts that do not count, comes from
-- model/reasons.py.
--
-- Times and durations are whole microseconds; see records.
--   K.history: entry (JSON) by the time at which its slot was freed.
--   K.capacity: {at, domains, shared, exclusive, price} (JSON) by the time from which it holds; of
--     nodes also written where their list changes (see domains).
--   An attempt of several GPUs has used a slot for each: what it has held counts as often.
--   K.usage: the newest capacity as '#now'; a row for each [day, tenant, task, isolation, reason,
--     counted], as JSON: 'SLOTS PRICE' -> {attempts, held, waited}; and for /metrics, for each
--     [tenant, isolation, reason], the seconds that GPUs were held. note_capacity moves the rows of
--     past days to K.usage:DAY, and sums the oldest capacities up there, as '#had'; '#began': since
--     when there are any. '#open HOLDER': the entry (JSON) of an attempt whose release Redis has
--     stopped half-way, after its slot was freed.

-- One name, since a script has at most 200.
local accounting = {}
do
  local DAY = 86400000000
  -- How many rows of one day a class has before tasks become 'other', unless note_capacity says;
  -- how many numbers for /metrics before tenants do; and into how many days an entry is split.
  local MOST_ROWS, MOST_TOTALS, MOST_DAYS = 500, 200, 1000
  -- Bytes of a name that is kept of a message.
  local LONGEST_NAME = 200
  local OTHER, OPEN = 'other', '#open '
  local TIMES = { 'start', 'stop', 'waited' }
  -- How many run times of a task are kept, and of how many tasks.
  local MOST_RUNS, MOST_TASKS = 32, 512

  -- The sum of two whole numbers of any length, as texts.
  local function plus(one, other)
    local low = tonumber(string.sub(one, -9)) + tonumber(string.sub(other, -9))
    local high = math.floor(low / 1000000000)
    for _, text in ipairs({ one, other }) do
      high = high + (tonumber(string.sub(text, 1, -10)) or 0)
    end
    if high == 0 then return digits(low) end
    return string.format('%.0f%09.0f', high, low % 1000000000)
  end

  local function short(name)
    return type(name) == 'string' and shortened(name, LONGEST_NAME) or ''
  end

  -- Since when a holder has its slots, and their isolation; nil: it has none. `job`: its record, or
  -- of a later attempt; nil: none.
  function accounting.held_since(holder, job)
    local own = job and job.isolation or 'exclusive'
    local other = own == 'shared' and 'exclusive' or 'shared'
    for _, each in ipairs({ own, other }) do
      local since = redis.call('ZSCORE', K['holders_' .. each], holder)
      if since then return tonumber(since), each end
    end
    return nil
  end

  -- Free the first slot of a holder. What fails after that is done again: see open_entry.
  function accounting.leave(holder, isolation)
    redis.call('ZREM', K['holders_' .. isolation], holder)
  end

  -- Free its further slots. `job`: its record, if that is of this attempt. Answer: how many slots
  -- it had in all.
  function accounting.leave_further(holder, isolation, job)
    return isolation == 'exclusive' and slots.leave(holder, job) or 1
  end

  -- What an attempt has used. `job`: its record, if `current`, or of a later attempt; nil: none.
  -- `since`: when it became a holder, of `number` slots. `stop`: until when it held them, if known.
  function accounting.entry_of(job, current, holder, number, since, isolation, stop)
    job = job or {}
    local start = since
    -- It held the slot before it was adopted. A record keeps 14 digits.
    local adopted = current and job.adopted and math.abs(since - job.adopted) < 0.001
    if adopted then start = math.min(since, job.admitted or since) end
    stop = math.max(start, math.min(now, stop or now))
    local known = current and job.created
    return {
      id = job.id or delivery_of(holder),
      delivery = delivery_of(holder),
      attempt = attempt_of(holder),
      tenant = short(job.tenant),
      task = short(job.task),
      domain = job.domain or '*', -- the whole class
      isolation = isolation,
      gpus = number > 1 and number or nil,
      start = micros(start),
      stop = micros(stop),
      waited = known and micros(math.max(0, start - in_line_since(job))) or 0,
      began = current and job.started and 1 or nil,
      memory = current and job.gpu_memory_peak or nil,
      memory_own = current and job.gpu_memory_own or nil,
    }
  end

  -- How an attempt ended, and whether it counts: the job did not need another one for a fault that
  -- is not its own. `before`: the state of the job when its slot was freed.
  function accounting.outcome_of(job, current, before, ended)
    if not current then return ended.reason, false end
    if ended.reason == 'ESCALATED' then return ended.reason, true end
    local over = job.state == 'ended' or job.state == 'finishing'
    if over then return job.reason, not WASTED[job.reason] end
    if before == 'reporting' then return 'REQUEUED', true end
    return ended.reason, false
  end

  -- The capacities that held at some time since `start`, the newest first.
  local function capacities(current, start)
    if not current then return {} end
    if tonumber(current.at) <= start then return { current } end
    local found = {}
    local from = redis.call('ZRANGE', K.capacity, start, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1)
    local log = redis.call('ZRANGE', K.capacity, '(' .. digits(start), '+inf', 'BYSCORE')
    table.insert(log, 1, from[1])
    for i = #log, 1, -1 do
      local each = decoded(log[i])
      if each and tonumber(each.at) then found[#found + 1] = each end
    end
    -- Of a time that is summed up, the terms that followed are known.
    local began = not from[1] and #found > 0 and redis.call('HGET', K.usage, '#began')
    if began then found[#found].at = began end
    return found
  end

  -- What a slot is a share of, and its price. Before the capacity was noted, neither is known.
  local function terms_at(capacity, isolation)
    if not capacity then return '0 -' end
    return digits(capacity[isolation] or 0) .. ' ' .. (capacity.price or '-')
  end

  -- The time from `from` to `to` by its terms. Answer: terms -> microseconds, the last terms, and
  -- the seconds of GPUs.
  local function parts_of(known, isolation, from, to)
    local parts, last, seconds = {}, nil, 0
    local function add(capacity, length)
      local terms = terms_at(capacity, isolation)
      last = last or terms
      parts[terms] = (parts[terms] or 0) + length
      local of_domain = capacity and capacity[isolation] or 0
      if of_domain > 0 then seconds = seconds + length / of_domain / 1000000 end
    end
    local up_to = to
    for _, each in ipairs(known) do
      local at = math.max(from, tonumber(each.at))
      if at < up_to or from == to and at == to and not last then
        add(each, up_to - at)
        up_to = at
      end
    end
    if from < up_to or not last then add(nil, up_to - from) end
    return parts, last, seconds
  end

  -- Add a number of attempts, and times as texts, to the terms of a row.
  function accounting.add_to(row, terms, attempts, held, waited)
    local sums = row[terms]
    if type(sums) ~= 'table' or #sums ~= 3 then sums = { '0', '0', '0' } end
    row[terms] = { plus(sums[1], attempts), plus(sums[2], held), plus(sums[3], waited) }
  end

  -- The names that a row may have, the first while the day has few rows.
  local function row_names(day, entry)
    local names = {}
    local kept = { { entry.tenant, entry.task }, { entry.tenant, OTHER }, { OTHER, OTHER } }
    for _, each in ipairs(kept) do
      names[#names + 1] = cjson.encode({
        day,
        each[1],
        each[2],
        entry.isolation,
        entry.reason,
        entry.counted and 1 or 0,
      })
    end
    return names
  end

  -- An entry as JSON can hold it.
  function accounting.written(entry)
    local kept = {}
    for field, value in pairs(entry) do kept[field] = value end
    for _, field in ipairs(TIMES) do kept[field] = digits(entry[field]) end
    return kept
  end

  -- Keep an entry: in the history, in the rows of its days, and in the totals for /metrics.
  local function keep_entry(entry)
    local first = math.floor(entry.start / DAY)
    local last = math.floor(math.max(entry.start, entry.stop - 1) / DAY)
    first = math.max(first, last - MOST_DAYS + 1)
    local asked = { '#now', '#rows', '#totals' }
    for _, tenant in ipairs({ entry.tenant, OTHER }) do
      asked[#asked + 1] = cjson.encode({ tenant, entry.isolation, entry.reason })
    end
    for day = first, last do
      for _, name in ipairs(row_names(day, entry)) do asked[#asked + 1] = name end
    end
    local found = redis.call('HMGET', K.usage, unpack(asked))
    local current = decoded(found[1])
    local rows, totals = tonumber(found[2]) or 0, tonumber(found[3]) or 0
    local most = current and current.rows or MOST_ROWS
    local known, seconds, changed = capacities(current, entry.start), 0, {}
    local number = entry.gpus or 1
    for day = first, last do
      local at = 5 + 3 * (day - first)
      local pick = 1
      if not found[at + 1] then pick = rows < most and 1 or rows < 2 * most and 2 or 3 end
      if not found[at + pick] then rows = rows + 1 end
      local row = decoded(found[at + pick]) or {}
      local from = day == first and entry.start or day * DAY
      local to = day == last and entry.stop or (day + 1) * DAY
      local parts, final, more = parts_of(known, entry.isolation, from, to)
      for terms, length in pairs(parts) do
        local ends = day == last and terms == final
        local waited = ends and digits(entry.waited) or '0'
        accounting.add_to(row, terms, ends and '1' or '0', digits(length * number), waited)
      end
      seconds = seconds + more * number
      changed[#changed + 1] = asked[at + pick]
      changed[#changed + 1] = cjson.encode(row)
    end
    local pick = (found[4] or totals < MOST_TOTALS) and 4 or 5
    if not found[pick] then totals = totals + 1 end
    local total = (tonumber(found[pick]) or 0) + seconds
    for _, each in ipairs({ asked[pick], string.format('%.6f', total), '#rows', rows }) do
      changed[#changed + 1] = each
    end
    changed[#changed + 1], changed[#changed + 2] = '#totals', totals
    -- Rows of days that were archived already.
    if first < math.floor(micros(now) / DAY) then
      changed[#changed + 1], changed[#changed + 2] = '#late', 1
    end
    redis.call('HSET', K.usage, unpack(changed))
    local share = current and current[entry.isolation]
    local kept = accounting.written(entry)
    kept.slots = share and share > 0 and share or nil
    kept.counted = entry.counted and 1 or 0
    redis.call('ZADD', K.history, entry.stop, cjson.encode(kept))
  end

  -- Keep how long an attempt has held its slot, for forecasts: by isolation, task and tenant, and
  -- of all tenants. The task that ended longest ago makes room for another one.
  local function keep_run_time(entry)
    local names = {}
    for _, tenant in ipairs({ '*', entry.tenant ~= '' and entry.tenant or nil }) do
      names[#names + 1] = table.concat({ entry.isolation, tenant, entry.task }, ':')
    end
    local found = redis.call('HMGET', K.run_times, unpack(names))
    local changed, marks = {}, {}
    for i, name in ipairs(names) do
      local runs = decoded(found[i]) or {}
      table.insert(runs, 1, math.floor((entry.stop - entry.start) / 1000) / 1000)
      runs[MOST_RUNS + 1] = nil
      changed[2 * i - 1], changed[2 * i] = name, cjson.encode(runs)
      marks[2 * i - 1], marks[2 * i] = now, name
    end
    redis.call('HSET', K.run_times, unpack(changed))
    redis.call('ZADD', K.run_times_last, unpack(marks))
    local over = redis.call('ZCARD', K.run_times_last) - MOST_TASKS
    if over <= 0 then return end
    accounting.forget_runs(redis.call('ZRANGE', K.run_times_last, 0, over - 1))
  end

  function accounting.forget_runs(names)
    if #names == 0 then return end
    redis.call('HDEL', K.run_times, unpack(names))
    redis.call('ZREM', K.run_times_last, unpack(names))
  end

  -- Account for an attempt whose slot was freed. A damaged key keeps no slot from being freed.
  function accounting.account(entry, reason, counted)
    entry.reason, entry.counted = reason or 'INFRA', counted
    if not pcall(keep_entry, entry) then
      redis.pcall('HINCRBY', K.counts, 'unaccounted:' .. entry.isolation, 1)
    end
    if entry.began then pcall(keep_run_time, entry) end
  end

  -- Keep an entry until the release is repeated: how the job continues is not decided yet.
  function accounting.keep_open(holder, entry)
    redis.pcall('HSET', K.usage, OPEN .. holder, cjson.encode(accounting.written(entry)))
  end

  -- Answer: the entry that was kept; nil: there is none that can be read.
  function accounting.open_entry(holder)
    local entry = decoded(redis.pcall('HGET', K.usage, OPEN .. holder))
    for _, field in ipairs(TIMES) do
      local time = entry and tonumber(entry[field])
      if not time then return nil end
      entry[field] = time
    end
    return entry
  end

  function accounting.close(holder)
    redis.pcall('HDEL', K.usage, OPEN .. holder)
  end

  -- Account for an attempt whose slot was freed before a time, if a field of K.usage has its entry:
  -- its release was not repeated, and how it has ended is not known.
  function accounting.end_open(field, before)
    local holder = string.match(field, '^' .. OPEN .. '(.*)$')
    if not holder then return end
    local entry = accounting.open_entry(holder)
    if entry and entry.stop >= before then return end
    accounting.close(holder)
    if entry then accounting.account(entry, 'INFRA', false) end
  end
end

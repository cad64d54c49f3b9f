-- The GPU memory that the jobs of each task have used, by tenant: what a job asks for is compared
-- with it, and nothing else comes of it. Needs clock, records. MEASURED, its bounds, comes from
-- model/task_memory.py.
--   K.task_memory: [tenant, task] (JSON) -> {peaks, asks, at, more, less} (JSON): the last peaks in
--     bytes; what the last job asked for, and when; whether it was told that one asked for more, or
--     for less
--   K.task_memory_at: the same names by `at`

-- One name, since a script has at most 200.
local task_memory = {}
do
  -- Accounts cut names that are very long: of such a task nothing is told.
  local function name_of(tenant, task)
    return cjson.encode({ tenant, task })
  end

  -- What is damaged counts as absent: it keeps no slot from being freed.
  local function read(name)
    local entry = decoded(redis.pcall('HGET', K.task_memory, name))
    local good = entry and type(entry.peaks) == 'table'
    good = good and type(entry.at) == 'number' and pcall(cjson.encode, entry)
    if not good or entry.at < now - MEASURED.seconds then return { peaks = {} } end
    return entry
  end

  local function highest(peaks)
    local most = 0
    for _, peak in ipairs(peaks) do most = math.max(most, tonumber(peak) or 0) end
    return most
  end

  local function forget(name)
    redis.call('ZREM', K.task_memory_at, name)
    redis.pcall('HDEL', K.task_memory, name)
  end

  -- One that comes may push another one out: the one whose last job is the longest ago.
  local function forget_old()
    local oldest = redis.pcall('ZRANGE', K.task_memory_at, 0, 0, 'WITHSCORES')
    if not oldest[2] then return end -- a key of another type
    local full = redis.call('ZCARD', K.task_memory_at) > MEASURED.tasks
    if full or tonumber(oldest[2]) < now - MEASURED.seconds then forget(oldest[1]) end
  end

  local function note(used, account, asks)
    local name = name_of(account.tenant, account.task)
    local entry = read(name)
    local peaks = entry.peaks
    peaks[#peaks + 1] = used
    while #peaks > MEASURED.runs do table.remove(peaks, 1) end
    entry.asks, entry.at = asks, now
    redis.pcall('HSET', K.task_memory, name, cjson.encode(entry))
    redis.pcall('ZADD', K.task_memory_at, now, name)
    forget_old()
  end

  -- Note what an attempt has used of each of its GPUs, by its account; `asks`: what its job asked
  -- for. On a GPU that others share, only torch knows.
  function task_memory.note(account, asks)
    local used = account.memory_own or 0
    if account.isolation == 'exclusive' and account.memory then
      used = math.max(used, account.memory - MEASURED.reserve * (account.gpus or 1))
    end
    if used > 0 then note(math.ceil(used / (account.gpus or 1)), account, asks) end
  end

  -- Compare what a job asks for with what its task has used, and note in its record that it asks
  -- for far more, or for less. Answer: 'more' or 'less', once for each task.
  function task_memory.compare(job)
    if not job.memory then return nil end
    local name = name_of(job.tenant or '', job.task or '')
    local entry = read(name)
    local most, runs = highest(entry.peaks), #entry.peaks
    local more = job.memory > MEASURED.far * most and runs >= MEASURED.enough
    local verdict = more and 'more' or job.memory < most and 'less'
    if not verdict then return nil end
    job.memory_used, job.memory_runs = most, runs
    if entry[verdict] then return nil end
    entry[verdict] = 1
    redis.call('HSET', K.task_memory, name, cjson.encode(entry))
    return verdict
  end
end

-- Records of jobs: read and write. A record is one JSON object in the hash K.jobs.

local function load(delivery)
  local raw = redis.call('HGET', K.jobs, delivery)
  return raw and cjson.decode(raw)
end

local function save(job)
  redis.call('HSET', K.jobs, job.delivery, cjson.encode(job))
end

local function holder_of(job)
  return string.format('%s#%d', job.delivery, job.attempt)
end

-- The newest delivery of a task: its number of retries, and of task.replace.
local function newest_of(id)
  local retries, nesting = string.match(redis.call('HGET', K.latest, id) or '', '~(%d+)%.?(%d*)$')
  return tonumber(retries) or 0, tonumber(nesting) or 0
end

local function note_newest(job)
  if job.delivery == job.id then return end
  local retries, nesting = newest_of(job.id)
  local own = job.nesting or 0
  local newer = own > nesting or own == nesting and (job.retries or 0) >= retries
  if newer then redis.call('HSET', K.latest, job.id, job.delivery) end
end

-- Whether an attempt has got so far as to send the delivery that comes after its own.
local function has_successor(job)
  local retries, nesting = newest_of(job.id)
  local own = job.nesting or 0
  return job.started and (nesting > own or nesting == own and retries > (job.retries or 0))
end

-- What an executor saw of its GPU (JSON, '' for nothing). It may come late, and memory is the most that anybody saw.
local function note_sample(job, json)
  if not json or json == '' then return end
  local seen = cjson.decode(json)
  job.gpu, job.gpu_error = seen.gpu or job.gpu, seen.gpu_error or job.gpu_error
  for _, field in ipairs({ 'gpu_memory_peak', 'gpu_memory_own' }) do
    if seen[field] then job[field] = math.max(seen[field], job[field] or 0) end
  end
end

-- Somebody who is not the executor must write the result; anybody may take that up from now on.
local function hand_to_finish(job, reason, now)
  job.state = 'finishing'
  job.reason = reason
  job.token = nil
  redis.call('ZADD', K.finishing, now, job.delivery)
  save(job)
end

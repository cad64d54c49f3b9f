-- Records of jobs: read and write. A record is one JSON object in the hash K.jobs. Needs clock.
-- KINDS, the types of fields that scripts compute with, and NEEDED, the fields that a record has in
-- each state, come from model/record.py.

-- The numbers of attempts are below: the name of a holder has all their digits.
local MOST_ATTEMPTS = 10 ^ 15

-- A list or a mapping that a text holds as JSON; nil: none.
local function decoded(text)
  local _, value = pcall(cjson.decode, text or '')
  return type(value) == 'table' and value or nil
end

-- Times and durations of accounts are whole microseconds, as texts: JSON of Redis has 14 digits.
local function micros(seconds)
  return math.floor(seconds * 1000000 + 0.5)
end

local function digits(number)
  return string.format('%.0f', number)
end

-- A text of some bytes, without the rest of a character that was cut.
local function shortened(text, most)
  local kept = string.sub(text, 1, most)
  if not string.find(text, '^[\128-\191]', most + 1) then return kept end
  return (string.gsub(kept, '[\192-\255][\128-\191]*$', ''))
end

local function is_of_texts(list)
  for index, text in pairs(list) do
    if type(index) ~= 'number' or type(text) ~= 'string' then return false end
  end
  return true
end

-- Whether JSON can hold a value again: a number may be infinite, or none.
local function is_storable(value)
  if type(value) == 'table' then return (pcall(cjson.encode, value)) end
  return type(value) ~= 'number' or value - value == 0
end

-- Whether a record can be worked with. A field without a value counts as absent.
local function sound(job, delivery)
  if type(job) ~= 'table' then return false end
  for field, value in pairs(job) do
    local kind = KINDS[field]
    if value == cjson.null then
      job[field] = nil
    elseif not is_storable(value) then
      return false
    elseif kind and type(value) ~= kind or kind == 'table' and not is_of_texts(value) then
      return false
    end
  end
  for _, field in ipairs(NEEDED[job.state or ''] or { '' }) do
    if not job[field] then return false end
  end
  job.gpu_class = job.gpu_class or string.match(K.jobs, '{(.*)}')
  local attempt = job.attempt or 0
  return job.delivery == delivery
    and job.id
    and (job.isolation == 'shared' or job.isolation == 'exclusive')
    and attempt >= 0
    and attempt < MOST_ATTEMPTS
    and attempt == math.floor(attempt)
end

-- Answers also how much of a script's time the record takes: 1 for most, 30 for the largest; and
-- the text of a damaged record, which is none.
local function load(delivery)
  local raw = redis.call('HGET', K.jobs, delivery)
  if not raw then return nil, 1 end
  local weight = 1 + math.floor(#raw / 2048)
  local _, job = pcall(cjson.decode, raw)
  if sound(job, delivery) then return job, weight end
  return nil, weight, raw
end

-- Answer: the record as text.
local function save(job)
  local text = cjson.encode(job)
  redis.call('HSET', K.jobs, job.delivery, text)
  return text
end

local function holder_name(delivery, attempt)
  return string.format('%s#%d', delivery, attempt)
end

-- A job that had no attempt yet, or whose record was damaged, holds nothing: its name is none's.
local function holder_of(job)
  return holder_name(job.delivery, job.attempt or 0)
end

-- The delivery in the name of a holder; nil: it is no such name.
local function delivery_of(holder)
  return string.match(holder, '^(.+)#%d+$')
end

-- The number of the attempt in the name of a holder.
local function attempt_of(holder)
  return tonumber(string.match(holder, '#(%d+)$'))
end

-- Whether this is the latest attempt of a record. A number is given twice if Redis comes back with
-- an older state, so the token decides; an older dispatcher does not send it.
local function is_current(job, asked)
  if not job or job.attempt ~= asked.attempt then return false end
  return not asked.token or not job.token or job.token == asked.token
end

-- The name of a delivery without what tells it from an earlier one of the same id and counts.
local function without_tag(delivery)
  return (string.gsub(delivery, '(~[%d.]+)%+%x+$', '%1'))
end

-- The newest delivery of a task: its number of retries, and its number of task.replace calls.
local function newest_of(id)
  local newest = without_tag(redis.call('HGET', K.latest, id) or '')
  local retries, nesting = string.match(newest, '~(%d+)%.?(%d*)$')
  return tonumber(retries) or 0, tonumber(nesting) or 0
end

-- The entry of a delivery in K.repeats. An id has no NUL.
local function repeat_of(job)
  return job.id .. '\0' .. job.delivery
end

local function note_newest(job)
  if job.delivery == job.id then return end
  redis.call('ZADD', K.repeats, 0, repeat_of(job))
  local retries, nesting = newest_of(job.id)
  local own = job.nesting or 0
  local newer = own > nesting or own == nesting and (job.retries or 0) >= retries
  if newer then redis.call('HSET', K.latest, job.id, job.delivery) end
end

-- Whether a delivery that comes follows the newest one of its task.
local function is_after_newest(job)
  local retries, nesting = newest_of(job.id)
  local own = job.nesting or 0
  return own > nesting or own == nesting and (job.retries or 0) > retries
end

-- Whether an attempt at this delivery has already sent the next delivery of the task.
local function has_successor(job)
  local retries, nesting = newest_of(job.id)
  local own = job.nesting or 0
  return job.started and (nesting > own or nesting == own and retries > (job.retries or 0))
end

-- The GPU as an executor sampled it (nil: no sample). Samples may arrive late; of the memory, the
-- highest value is kept.
local function note_sample(job, sample)
  if not sample then return end
  job.gpu, job.gpu_error = sample.gpu or job.gpu, sample.gpu_error or job.gpu_error
  for _, field in ipairs({ 'gpu_memory_peak', 'gpu_memory_own' }) do
    if sample[field] then job[field] = math.max(sample[field], job[field] or 0) end
  end
end

-- A finisher must write the result in the executor's place. Any finisher may take it from now on.
local function hand_to_finish(job, reason)
  job.state = 'finishing'
  job.reason = reason
  job.token = nil
  redis.call('ZADD', K.finishing, now, job.delivery)
  save(job)
end

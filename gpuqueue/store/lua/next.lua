-- next: an instance whose attempt has ended asks for its next job, in place of an end and a new
-- start. In one step its attempt is released as in release, and its next one is admitted as in
-- admit and claimed as in claim. It gets the job that admission would start first at this moment,
-- if that fits it, and no other. May be repeated: the answer is the same while that job runs.
-- Context:
--   delivery, attempt, token: of the attempt that has ended
--   instance: what ran it, as it was claimed
--   host: its host, or pod
--   site: whose terms hold for it (see announce)
--   application, settings?: what it was started with
--   reuses?: true: the same process goes on. It gives a slot up only for another one, since its
--     GPU memory is free when it has ended; the job must have the same task, and both must allow
--     it. Without it, the slot is free in any case: the process has ended, and the instance stays
--   ended?: as in release; of an instance that saw how its executor ended
--   node?, longest?: see suits in lib/warm
--   stays?: seconds that the instance may wait for a job without a slot; not with `reuses`
--   loads_within?: as in claim
--   nonce, most: see admit
-- Answer: {'ok', record (JSON), message (JSON)} | {'none', why, 1 if a job can start now that does
--         not fit, or may, else 0} | {'waits', ..., as after 'none'}: see idle
--! clock counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds places
--! held bounds warm waiting_pods placement reserved gate admission,
--! accounting escalation task_memory release
local holder, instance = holder_name(context.delivery, context.attempt), context.instance
-- What is known of the end of an attempt that has reported.
local UNSEEN = { reason = 'INFRA', error = '', avoid = '', blames = '', tried = 'never' }
UNSEEN.evidence = {}

local function none(why, wakes)
  return { 'none', why, wakes and 1 or 0 }
end

-- Whether the user may do what admission does: a script that is refused in its middle has written.
-- A server that does not tell who it is may have an older state.
local function has_rights()
  redis.call('HMGET', K.gate, 'opened')
  redis.call('HEXISTS', K.messages, context.delivery)
  redis.call('ZCARD', K.holders_shared)
  redis.call('ZCOUNT', K.delayed, 0, 0)
  return server() ~= ''
end

-- The same for a class whose GPUs are handed out.
local function check_rights_for(devices)
  if devices == 0 then return end
  redis.call('HVALS', K.devices)
  redis.call('HGETALL', K.places)
end

-- The job that an earlier call of this instance gave; nil: none was given, or it has gone on since.
local function given_before(before)
  local name = before.warm_last
  local job = name and load(delivery_of(name) or '')
  local same = job and job.warm_after == holder
  return same and job.instance == instance and job or nil
end

-- Whether all places of the attempt are in use: a probe, and what follows one, is a cold start.
local function met_trouble(before)
  for _, name in ipairs(before.places or {}) do
    if place_entry(name) then return true end
  end
  return false
end

local function as_instance(before)
  return {
    isolation = before.isolation,
    tenant = before.tenant,
    image = before.image,
    gpus = before.gpus,
    node = context.node,
    longest = context.longest,
  }
end

-- The domain of the instance. An earlier version gave a pod a slot without one.
function domain.of_instance(before, spec)
  local own = domain.of_record(spec, before)
  return own == domain.NOWHERE_YET and context.node or own
end

-- Whether the instance can run a job. `v`: what the decision depended on.
local function fits(job, v, before, spec)
  if not suits(job, as_instance(before)) or node_aside(context.node) then return false end
  if context.reuses then
    local most = math.min(job.reuse or 0, most_of(before))
    if job.task ~= before.task or runs_of_process(before) > most then return false end
  elseif not job.warm or standing(application_place(spec, job)) then
    return false
  end
  local device = before.device
  local own = spec.domain and domain.of_instance(before, spec)
  local number = slots.of_job(job)
  if spec.domain then
    if own == domain.kept_from(v, job.isolation) then return false end
    if not domain.takes(own, job.isolation, number) then return false end
  end
  if spec.devices == 0 then return device == nil end
  if not device then return false end
  local jobs, room = domain.jobs_of_devices(spec, job.isolation)
  for _, index in ipairs(slots.devices_of(before)) do
    if index >= spec.devices then return false end
    for _, name in ipairs(job.avoid or {}) do
      if name == device_place(spec, index) then return false end
    end
    if not spec.domain and jobs[index] >= room then return false end
  end
  return true
end

-- Whether the GPUs of the instance still have their places among those of the class.
local function same_devices(before, spec)
  local places_of_it = {}
  for _, name in ipairs(before.places or {}) do places_of_it[name] = true end
  local devices = slots.devices_of(before)
  for _, index in ipairs(devices) do
    if not places_of_it[device_place(spec, index)] then return false end
  end
  return #devices == #domain.gpus_of(before)
end

-- What would start if the attempt were released, and whether it fits. The slot is given back.
local function look_ahead(before, ask)
  local key = K['holders_' .. before.isolation]
  local since = redis.call('ZSCORE', key, holder)
  redis.call('ZREM', key, holder)
  redis.call('HDEL', K.devices, holder)
  local number = slots.leave(holder, before)
  local own = domain.leave(holder, number)
  local fields = { 'drained', 'until', 'reserved', 'reserved_for', 'strict', DOMAIN .. 'until' }
  local kept = redis.call('HMGET', K.gate, unpack(fields))
  local give_back = tenancy.without(holder, number)
  local job, v = startable(ask, { spent = 0 })
  local good = job and fits(job, v, before, ask.spec)
  redis.call('ZADD', key, since, holder)
  slots.enter(holder, number)
  slots.hold_devices(holder, slots.devices_of(before))
  if own then
    local ends = domain.planned_end(before, before.started)
    domain.enter(holder, own, before.isolation, ends, number)
  end
  for i, field in ipairs(fields) do
    if kept[i] then
      redis.call('HSET', K.gate, field, kept[i])
    else
      redis.call('HDEL', K.gate, field)
    end
  end
  give_back()
  return job, v, good
end

-- Wait for a job, if a share is left that no job needs. An instance that was given a GPU gives it
-- up. One whose job may run again could not be found by that any more; one of several GPUs would
-- keep them all idle. Answer: as that of none.
local function wait_or_none(before, first, spec, why, wakes)
  local over = before.state == 'ended' and first.state == 'ended'
  local free = spec.devices == 0 and not before.gpus and shares_in_use() < shares_of(spec)
  if not (context.stays and over and free) or met_trouble(before) then return none(why, wakes) end
  local pod = as_instance(before)
  pod.last, pod.site, pod.name, pod.seen = holder, context.site, context.host, now
  pod.application, pod.settings = context.application, context.settings
  redis.call('HSET', K.warm, instance, cjson.encode(pod))
  redis.call('ZADD', K.warm_until, now + context.stays + LEAVES_WITHIN, instance)
  return { 'waits', why, wakes and 1 or 0 }
end

-- 1. Who asks?
if not has_rights() then return none('the user of Redis may not ask') end
local before = load(context.delivery)
local given = before and given_before(before)
if given then
  if given.state == 'launching' then return { 'waits', 'it is called', 0 } end
  local message = redis.call('HGET', K.messages, given.delivery)
  if given.state ~= 'running' or not message then return none('the next attempt has gone on') end
  return { 'ok', cjson.encode(given), message }
end
local waits = waiting_pod(instance)
if waits and waits.last == holder then return { 'waits', 'it waits', 0 } end
if not is_current(before, context) then return none('the attempt is not current') end
if not before.instance or not same_instance(before.instance, instance) then
  return none('another instance runs the attempt')
end
if not redis.call('ZSCORE', K['holders_' .. before.isolation], holder) then
  return none('its slot is free')
end
if redis.call('ZSCORE', K.stopping, holder) then return none('it is being stopped') end
local seen = context.ended and not context.reuses
if before.state ~= 'ended' and not seen then return none('state ' .. before.state) end
local first = first_of(before)
if not first then return none('its first attempt is forgotten') end
if domain.is_unbound(before.domain) then return none('the domain of its node is not known yet') end

-- 2. By which terms?
local terms = terms_of(context.site, context.application, context.settings)
if not terms or not same_devices(before, terms.spec) then
  return none('no dispatcher starts such an instance any more')
end
check_rights_for(terms.spec.devices)
local ask = { spec = terms.spec, by = terms.by, nonce = context.nonce, most = context.most }
-- A pod that runs already meets no hold. It may take the first job.
ask.spec.goes_on = not terms.spec.host

-- 3. Which job would start?
local job, v, good
if context.reuses then
  if met_trouble(before) then return none('a place of the attempt has failed before') end
  job, v, good = look_ahead(before, ask)
  if not good then return none(job and 'another job is first' or 'no job can start') end
end
local _, released = release({
  delivery = context.delivery,
  attempt = context.attempt,
  token = context.token,
  instance = instance,
  max_attempts = terms.max_attempts,
  max_disruptions = terms.max_disruptions,
  ended = context.ended or UNSEEN,
})
if not context.reuses then
  forget_waiting(instance) -- as an older state has it
  local budget = { spent = 0 }
  job, v = startable(ask, budget)
  if not job then return wait_or_none(before, first, ask.spec, 'no job can start', budget.over) end
  if met_trouble(before) or not fits(job, v, before, ask.spec) then
    return wait_or_none(before, first, ask.spec, 'another job is first', true)
  end
end

-- 4. The instance goes on with it.
give_slot(job, v, ask, {
  domain = ask.spec.domain and domain.of_instance(before, ask.spec),
  devices = before.device and slots.devices_of(before),
})
job.launched = now
follow(job, before, context.reuses)
if not context.reuses then
  job.node, job.pod = context.node, context.host
end
begin(job, {
  instance = instance,
  worker = string.format('%s-%s-%d@%s', job.gpu_class, job.delivery, job.attempt, context.host),
  started = now,
  loads_within = context.loads_within,
})
job.loading = 1 -- until it reports that its task begins, with any limit
save(job)
if first.delivery == released.delivery then first = released end
name_last(job, released, first)
count('warm', job)
return { 'ok', cjson.encode(job), redis.call('HGET', K.messages, job.delivery) }

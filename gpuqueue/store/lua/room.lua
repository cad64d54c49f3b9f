-- room: how soon a job that comes now would start, for a choice among classes. Reads only.
-- Context:
--   spec: the class, as Line.spec returns it
--   job: some fields of its record: see Line.room
-- Answer: {1 if it would start at once, else 0; 1 if the end of a job would not suffice, else 0;
--          jobs in line; slots of its isolation}
--! clock bounds counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds
--! places held warm waiting_pods placement reserved gate
bounds.follow(context.spec)
local spec, job = context.spec, context.job
local isolation, number = job.isolation, slots.of_job(job)
local v = look(spec, isolation)
local domains = spec.domain and redis.call('HLEN', K.domains) or 1
-- What runs is compared with the holders in a moment, for all classes of the dispatcher.
v.opened = v.opened or now

-- Whether jobs of the application, and of the image, are kept from their start.
local function is_held()
  return standing(application_place(spec, job)) == 'held'
    or not spec.host and standing(hold_of_image(spec, job)) == 'held'
end

-- Whether it starts before the first exclusive job, which needs several GPUs and must wait.
local function passes()
  local waits = spec.domain and isolation == 'exclusive' and v.needs > 1 and not v.exclusive_domain
  if not waits or v.strict == v.exclusive or v.aside then return false end
  if redis.call('ZCARD', K.waiting_exclusive) > domain.BEHIND then return false end
  local reserved = v.reserved_for == v.exclusive and v.reserved or nil
  local own = domain.pick(spec, isolation, nil, reserved, number)
  return own ~= nil and not domain.is_turn_of_shared(v, spec)
end

local function starts()
  if is_held() or tenancy.limited(job) then return false end
  if v[isolation] then return passes() end
  -- Its domains are made by the first decision.
  if spec.domain == 'device' and v.domains ~= domain.signature(spec) then return v.holders == 0 end
  if number > 1 then
    v.needs = number
    if spec.domain then
      v.exclusive_domain, v.exclusive_why = domain.pick(spec, isolation, nil, nil, number)
    end
  end
  return not blocked(v, spec, isolation)
end

-- Whether every GPU, or every node, of the class is set aside, or being tried.
local function all_aside()
  if not any_place() then return false end
  local kind = spec.devices > 0 and 'device' or spec.domain == 'node' and 'node' or nil
  local total = kind == 'device' and spec.devices or domains
  for name in pairs(places()) do
    local known = kind ~= 'node' or domain.slots(string.sub(name, #'node:' + 1))
    if place_kind(name) == kind and known and standing(name) then total = total - 1 end
  end
  return kind ~= nil and total <= 0
end

-- Whether the end of a job would not suffice to let it start.
local function needs_more()
  if v.aside or is_held() or domain.is_elsewhere(spec) or tenancy.refusal(job) then return true end
  return domain.too_small_for(number, spec) ~= nil or v.holders == 0 or all_aside()
end

local at_once = not tenancy.refusal(job) and not domain.is_elsewhere(spec) and starts()
local waiting = redis.call('ZCARD', K.waiting_shared) + redis.call('ZCARD', K.waiting_exclusive)
return {
  at_once and 1 or 0,
  not at_once and needs_more() and 1 or 0,
  waiting,
  domains * spec[isolation .. '_slots'],
}

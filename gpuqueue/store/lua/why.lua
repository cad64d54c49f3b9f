-- why: explain why a job has not started: reason, place in line, jobs ahead. Reads only.
-- Context:
--   delivery: of the job
--   spec: the class, as GpuClass.spec returns it
--   most: how many of the jobs ahead to name
-- Answer: {record (JSON), reason, place (from 1; 0: not in line), delivery ahead...} | nil
--! clock bounds counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds
--! places held warm waiting_pods placement reserved gate admission
bounds.follow(context.spec)
local delivery = context.delivery
local job = load(delivery)
if not job then return nil end
local reason, place = '', 0
domain.learn(context.spec)
local answer = {}

-- Why a free slot does not help: the place that is set aside. The machines of the class are not
-- known here.
local REASONS = {
  { 'application', 'APPLICATION_HELD' },
  { 'host', 'HOST_SET_ASIDE' },
  { 'device', 'DEVICE_SET_ASIDE' },
  { 'image', HOLD_WAITS.image },
}
local function held_back()
  local kinds = {}
  for name in pairs(places()) do
    local image = string.match(name, '^application:[^@]*@(.*)$')
    local other = image and job.image and image ~= job.image
    other = other or place_kind(name) == 'image' and name ~= 'image:' .. (job.image or '')
    if standing(name) == 'held' and not other then kinds[place_kind(name)] = true end
  end
  for _, each in ipairs(REASONS) do
    if kinds[each[1]] then return each[2] end
  end
  return nil
end

if job.state == 'delayed' then
  reason = job.wait or 'NOT_BEFORE'
elseif job.state == 'launching' then
  reason = job.wait or 'STARTING'
elseif job.state == 'running' or job.state == 'reporting' then
  reason = job.wait or ''
elseif job.state == 'waiting' then
  local key = K['waiting_' .. job.isolation]
  local v = look(context.spec, job.isolation)
  local limit = v.opened and tenancy.limited(job) and 'TENANT_LIMIT'
  reason = limit or blocked(v, context.spec, job.isolation) or held_back() or 'BEHIND_OTHERS'
  place = redis.call('ZRANK', key, delivery) + 1
  if place > 1 then
    answer = redis.call('ZRANGE', key, math.max(0, place - 1 - context.most), place - 2)
  end
end
table.insert(answer, 1, cjson.encode(job))
table.insert(answer, 2, reason)
table.insert(answer, 3, place)
return answer

-- turn: a turn of the watcher in one class. Move what is due, start every job that can start, and
-- answer what the watcher must handle. Each step fails by itself.
-- Context:
--   spec, nonce, by, most: see admit
--   moves: how many of each kind to move; see tick
--   shown: how many of each kind of work to answer
-- Answer: {moved; when the next turn is due (Unix seconds as text, '' for none); 1 if the class has
--         work in each turn; 1 if its jobs may start (see open); answer of admit; then pairs of
--         name and since when: holders to stop, jobs that any finisher may take, jobs not in line
--         yet; {step, problem, ...} of the steps that failed}
--! clock bounds counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds
--! places held warm waiting_pods placement reserved gate admission upkeep
bounds.follow(context.spec)
local problems = {}

local function attempt(step, act, otherwise)
  local done, answer = pcall(act)
  if done then return answer end
  problems[#problems + 1] = step
  -- An error of the script itself begins with its place.
  problems[#problems + 1] = string.match(answer, '^@?user_script: ?%d+: %-?(.*)$') or answer
  return otherwise
end

-- An attempt without a slot need not be stopped any more.
local function to_stop()
  local found = redis.call('ZRANGE', K.stopping, 0, context.shown - 1, 'WITHSCORES')
  local kept = {}
  for i = 1, #found, 2 do
    local holder = found[i]
    local holds = redis.call('ZSCORE', K.holders_shared, holder)
      or redis.call('ZSCORE', K.holders_exclusive, holder)
    if holds and delivery_of(holder) then
      kept[#kept + 1], kept[#kept + 2] = holder, found[i + 1]
    else
      redis.call('ZREM', K.stopping, holder)
    end
  end
  return kept
end

local function soonest()
  local text, first = earlier(next_place(), next_due())
  for _, key in ipairs({ K.ended, K.revoked_until }) do
    local score = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
    if score and (not first or tonumber(score) < first) then
      first, text = tonumber(score), score
    end
  end
  return text or ''
end

local moved = 0
for _, each in ipairs(MOVES) do
  local function take() return move(K[each[1]], each[2], context.moves) end
  moved = moved + attempt(each[1], take, 0)
end
attempt('places', forget_places)
attempt('slots', function()
  slots.look_over(function(further)
    local name = domain.leave_further(further)
    if name then domain.index(name) end
  end)
end)
attempt('tenants', function()
  tenancy.look_once()
  tenancy.look_over()
end)
local granted = attempt('admit', function() return admit(context) end, { 0 })
local stopping = attempt('stopping', to_stop, {})
local finishing = attempt('finishing', function()
  local shown = context.shown
  return redis.call('ZRANGEBYSCORE', K.finishing, '-inf', now, 'WITHSCORES', 'LIMIT', 0, shown)
end, {})
local accepted = attempt('accepted', function()
  return redis.call('ZRANGE', K.accepted, 0, context.shown - 1, 'WITHSCORES')
end, {})
local opened = attempt('opened', function() return redis.call('HEXISTS', K.gate, 'opened') end, 1)
local due = attempt('due', soonest, '')
local has_work = 0 -- see BUSY in keys.py
for _, name in ipairs(BUSY) do
  local key = K[name]
  if redis.call('EXISTS', key) == 1 then has_work = 1 end
end
return { moved, due, has_work, opened, granted, stopping, finishing, accepted, problems }

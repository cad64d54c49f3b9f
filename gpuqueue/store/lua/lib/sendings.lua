-- A message whose id and counts are known: the broker delivered it again, or its sender has sent it
-- again. Needs clock, records.

-- What keeps a task from another run: 'busy' (a delivery waits or runs, or a retry is on its way),
-- 'ending' (its result may be known already, and only its end must be noted), nil (nothing).
local function obstacle(id)
  local plain = load(id)
  if plain and plain.id ~= id then plain = nil end
  local newest = load(redis.call('HGET', K.latest, id) or id) or plain
  if newest and newest.reason == 'RETRIED' and not newest.elsewhere then return 'busy' end
  local state = newest and newest.state or 'ended'
  if state == 'reporting' or state == 'finishing' then return 'ending' end
  if state ~= 'ended' then return 'busy' end
  if plain and plain.state ~= 'ended' then return 'ending' end
  local first, last = '(' .. id .. '\0', '(' .. id .. '\1'
  local live = redis.call('ZRANGE', K.repeats, first, last, 'BYLEX', 'LIMIT', 0, 1)
  return live[1] and 'ending' or nil
end

-- Find a message among what is known, and name its job after it; `again`: the name that it gets if
-- it was sent again. Answer: the record of the message, if it is known; what keeps it from being
-- accepted; whether it begins another run of a task whose newest delivery has a name in K.latest.
local function look_up(job, again)
  local known = load(job.delivery)
  local other = known and again and known.tag and known.tag ~= job.tag
  if known and not other then return known end
  local latest = redis.call('HGET', K.latest, job.id)
  -- It may have been adopted by that name, with no other run known.
  known = again and (other or latest) and load(again)
  if other or known then job.delivery = again end
  if known then return known end
  if (job.retries or 0) > 0 or (job.nesting or 0) > 0 then
    -- A run sends each retry once. Another one comes from an attempt that was given up.
    return nil, other and not is_after_newest(job) and 'busy', false
  end
  return nil, (other or latest) and obstacle(job.id), latest
end

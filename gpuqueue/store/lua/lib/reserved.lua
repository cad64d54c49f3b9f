-- A class of several domains, while its first exclusive job needs several GPUs and must wait: one
-- domain is reserved for it, and the exclusive jobs behind it start in the others alone.
-- Needs clock, records, slots, tenants, tenant_turns, domains, placement.
--
-- Field `reserved` of K.gate: that domain, from the moment at which the job must wait. Once shared
-- jobs have used up the patience of the job, the same domain drains (see admission).

do
  -- How many of the jobs behind it one decision looks at.
  local BEHIND = 8
  -- Delivery → how many slots a job needs; false: it is no job of the line.
  local needs = {}

  local function needed(delivery)
    if needs[delivery] == nil then
      local job = load(delivery)
      local waits = job and job.state == 'waiting' and job.isolation == 'exclusive'
      needs[delivery] = waits and slots.of_job(job)
    end
    return needs[delivery]
  end

  -- The exclusive jobs behind the first one, in order: each with delivery and rank.
  local function behind()
    if tenancy.on() then return tenancy.behind('exclusive', BEHIND) end
    local found = redis.call('ZRANGE', K.waiting_exclusive, 1, BEHIND, 'WITHSCORES')
    local jobs = {}
    for i = 1, #found, 2 do
      jobs[#jobs + 1] = { delivery = found[i], rank = tonumber(found[i + 1]) }
    end
    return jobs
  end

  -- The first job behind that a domain takes which is not reserved, with its `domain`; nil: none.
  function domain.passing(spec, reserved)
    if not domain.pick(spec, 'exclusive', nil, reserved) then return nil end
    for _, job in ipairs(behind()) do
      local number = needed(job.delivery)
      job.domain = number and domain.pick(spec, 'exclusive', nil, reserved, number)
      if job.domain then return job end
    end
    return nil
  end

  -- The domain where no job of an isolation starts at present. `v`: what the decision depends on.
  function domain.kept_from(v, isolation)
    if isolation == 'shared' then return not v.backfills and v.drained or nil end
    return v.passing and v.reserved or nil
  end

  -- Note the domain that is reserved and the one that drains; nil: none.
  function domain.note_kept(v, reserved, drained)
    if reserved ~= v.reserved then
      if reserved then
        redis.call('HSET', K.gate, 'reserved', reserved)
      else
        redis.call('HDEL', K.gate, 'reserved')
      end
    end
    if drained == v.drained then return end
    if drained then
      redis.call('HSET', K.gate, 'drained', drained, 'until', domain.ends(drained) or 0)
    else
      redis.call('HDEL', K.gate, 'drained', 'until')
    end
  end
end

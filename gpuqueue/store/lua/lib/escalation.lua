-- A job that has run out of GPU memory and runs once more, in a larger place: in its class, or in
-- another one, whose keys no script of this class can write. Needs counts, records, line, attempts.
-- `larger` of a record is the class and the isolation of that place, or 'none' (see
-- model/escalation.py); `escalated` those of the place before.

-- One name, since a script has at most 200.
local escalation = {}
do
  local function parse(place)
    return string.match(place or '', '^(%S+) (%S+)$')
  end

  -- Whether it is due: its executor has said so, or its end was observed.
  function escalation.is_due(job, ended)
    if job.state == 'reporting' then return job.outcome == 'ESCALATED' end
    return job.state == 'running' and ended.reason == 'GPU_OOM' and job.larger ~= nil
  end

  -- A job without a larger place, or whose message is lost, or that was revoked, ends. Where the
  -- place is in another class, a finisher moves the job in place of an end: `ended.moves`. An older
  -- one ends it.
  function escalation.escalate(job, ended)
    local class, isolation = parse(job.larger)
    if redis.call('HGET', K.revoked, job.id) then -- as a message that arrives
      job.outcome = nil
      hand_to_finish(job, 'CANCELLED')
      return
    end
    job.error = string.format('out of GPU memory in %s (%s)', job.gpu_class, job.isolation)
    if job.larger == 'none' then job.error = job.error .. '; no class that fits it is larger' end
    if not class or redis.call('HEXISTS', K.messages, job.delivery) == 0 then
      job.outcome = nil
      hand_to_finish(job, 'GPU_OOM')
      return
    end
    count('repeated', job, 'ESCALATED')
    ended.reason = 'ESCALATED'
    if class ~= job.gpu_class then
      job.outcome = 'ESCALATED'
      ended.moves = true
      hand_to_finish(job, 'GPU_OOM')
      return
    end
    forget_attempt(job)
    job.escalated = job.gpu_class .. ' ' .. job.isolation
    job.isolation, job.larger = isolation, nil
    job.spared = (job.spared or 0) + 1
    job.outcome, job.eta = nil, now -- since when it waits
    enter_line(job)
  end
end

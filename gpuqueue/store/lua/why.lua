-- why: explain why a job has not started: reason, place in line, jobs ahead. Reads only.
-- Context:
--   delivery: of the job
--   spec: the class, as GpuClass.spec returns it
--   most: how many of the jobs ahead to name
-- Answer: {record (JSON), reason, place (from 1; 0: not in line), delivery ahead...} | nil
--! clock counts records line attempts admission
local delivery = context.delivery
local job = load(delivery)
if not job then return nil end
local reason, place = '', 0
local answer = {}
if job.state == 'delayed' then
  reason = 'NOT_BEFORE'
elseif job.state == 'launching' then
  reason = job.wait or 'STARTING'
elseif job.state == 'running' or job.state == 'reporting' then
  reason = job.wait or ''
elseif job.state == 'waiting' then
  local key = K['waiting_' .. job.isolation]
  reason = blocked(look(context.spec), context.spec, job.isolation) or 'BEHIND_OTHERS'
  place = redis.call('ZRANK', key, delivery) + 1
  if place > 1 then
    answer = redis.call('ZRANGE', key, math.max(0, place - 1 - context.most), place - 2)
  end
end
table.insert(answer, 1, cjson.encode(job))
table.insert(answer, 2, reason)
table.insert(answer, 3, place)
return answer

-- why: why a job has not started, its place in line and who is ahead. Reads only.
-- ARGV: delivery, spec (JSON), most (how many of those ahead to name)
-- Answer: {record (JSON), reason, place (from 1; 0: not in line), delivery ahead...} | nil
--! counts records line attempts admission
local job = load(ARGV[1])
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
  local spec = cjson.decode(ARGV[2])
  reason = blocked(look(spec), spec, job.isolation) or 'BEHIND_OTHERS'
  place = redis.call('ZRANK', K['waiting_' .. job.isolation], ARGV[1]) + 1
  if place > 1 then
    answer = redis.call('ZRANGE', K['waiting_' .. job.isolation], math.max(0, place - 1 - tonumber(ARGV[3])), place - 2)
  end
end
table.insert(answer, 1, cjson.encode(job))
table.insert(answer, 2, reason)
table.insert(answer, 3, place)
return answer

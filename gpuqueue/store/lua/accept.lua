-- accept: store a delivery, unless it is known (a redelivery, also of an ended job). Put it in
-- line, and start every job that can start.
-- ARGV[2]: the whole Celery message (JSON), stored as it is
-- Context:
--   record: the record to store, without `created`; with `reason` set, the job is refused for it;
--     with `attempt`, it comes from another class, where it was in line before
--   again?: its delivery if its message was sent again; absent: nothing tells that
--   spec?, nonce?, by?, most?: see admit; without them the delivery is stored, and not put in line
-- Answer: {'accepted' | 'known' | 'finishing' (refused, or revoked before it arrived) |
--         'refused' (its tenant has max_queued jobs) | of an id
--         that was sent again: 'busy' (its job waits or runs), 'ending' (its job is about to end:
--         try again);
--         1 if the job is due sooner than what the watcher waits for, else 0; answer of admit; its
--         delivery; if it asks for far more GPU memory than its task has used, or for less, the
--         first time: the most used (bytes, as text) and by how many jobs}, or the error UNSTORABLE
--! clock bounds counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds
--! places held warm waiting_pods placement reserved gate admission sendings task_memory
if context.spec then bounds.follow(context.spec) end
local job = context.record
local known, hinders, follows = look_up(job, context.again)
local delivery = job.delivery
if known then
  -- Redis had lost the message of an attempt that was adopted. A tombstone has none.
  if known.state ~= 'ended' then redis.call('HSETNX', K.messages, delivery, ARGV[2]) end
  return { 'known', 0, { 0 }, delivery }
end
if hinders then return { hinders, 0, { 0 }, delivery } end
-- Before anything is written: a number may be one that JSON cannot hold.
local storable, problem = pcall(cjson.encode, job)
if not storable then return redis.error_reply('UNSTORABLE ' .. tostring(problem)) end
job.created = now
redis.call('HSET', K.messages, delivery, ARGV[2])
-- The deliveries of the run before do not follow this one.
if follows then redis.call('HDEL', K.latest, job.id) end
note_newest(job)
local reason = job.reason or redis.call('HGET', K.revoked, job.id) and 'CANCELLED'
if reason then
  hand_to_finish(job, reason)
  return { 'finishing', 0, { 0 }, delivery }
end
local refused = not job.attempt and tenancy.refusal(job)
if refused then
  job.error, job.error_type = refused, 'TenantLimit'
  hand_to_finish(job, 'REJECTED')
  return { 'refused', 0, { 0 }, delivery }
end
count('accepted', job)
local told = task_memory.compare(job)
if not context.spec then
  job.state = 'accepted'
  redis.call('ZADD', K.accepted, now, delivery)
  save(job)
  return { 'accepted', 0, { 0 }, delivery }
end
local due = due_of(job)
local sooner = due and due < (next_due() or math.huge) and 1 or 0
local entered, failure = pcall(enter_line, job)
if not entered then
  -- Its message comes again. A name in line without a record would count as damaged.
  for _, name in ipairs({ 'waiting_' .. job.isolation, 'delayed', 'expiring' }) do
    redis.pcall('ZREM', K[name], delivery)
  end
  redis.pcall('HDEL', K.messages, delivery)
  error(failure, 0)
end
local answer = { 'accepted', sooner, admit(context), delivery }
if told then
  answer[5], answer[6] = string.format('%.0f', job.memory_used), job.memory_runs
end
return answer

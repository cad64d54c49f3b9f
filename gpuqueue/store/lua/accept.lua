-- accept: store a delivery, unless it is known (a redelivery, or the tombstone of an ended job).
-- Put it in line, and start every job that can start.
-- ARGV[2]: the whole Celery message (JSON), stored as it is
-- Context:
--   record: the record to store, without `created`; with `reason` set, the job is refused for it
--   spec?, nonce?, by?, most?: see admit; without them the delivery is stored, and not put in line
-- Answer: {'accepted' | 'known' | 'finishing' (refused, or revoked before it arrived);
--         1 if the job is due sooner than what the watcher waits for, else 0; answer of admit},
--         or the error UNSTORABLE
--! clock counts records line damaged attempts server place places warm waiting_pods admission
local job = context.record
local delivery = job.delivery
local known = load(delivery)
if known then
  -- Redis had lost the message of an attempt that was adopted. A tombstone has none.
  if known.state ~= 'ended' then redis.call('HSETNX', K.messages, delivery, ARGV[2]) end
  return { 'known', 0, { 0 } }
end
-- Before anything is written: a number may be one that JSON cannot hold.
local storable, problem = pcall(cjson.encode, job)
if not storable then return redis.error_reply('UNSTORABLE ' .. tostring(problem)) end
job.created = now
redis.call('HSET', K.messages, delivery, ARGV[2])
note_newest(job)
local reason = job.reason or redis.call('HGET', K.revoked, job.id) and 'CANCELLED'
if reason then
  hand_to_finish(job, reason)
  return { 'finishing', 0, { 0 } }
end
count('accepted', job)
if not context.spec then
  job.state = 'accepted'
  redis.call('ZADD', K.accepted, now, delivery)
  save(job)
  return { 'accepted', 0, { 0 } }
end
local due = due_of(job)
local sooner = due and due < (next_due() or math.huge) and 1 or 0
enter_line(job)
return { 'accepted', sooner, admit(context) }

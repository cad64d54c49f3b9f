-- accept: keep a delivery, unless it is known already (a redelivery, or the tombstone of an ended job).
-- ARGV: delivery, record (JSON), message (JSON), now (s)
-- Answer: 'accepted' | 'known' | 'finishing' (it was revoked before it came, or the record says why it is refused)
--! counts records
local delivery, now = ARGV[1], tonumber(ARGV[4])
if redis.call('HEXISTS', K.jobs, delivery) == 1 then return 'known' end
local job = cjson.decode(ARGV[2])
redis.call('HSET', K.messages, delivery, ARGV[3])
note_newest(job)
if job.reason then
  hand_to_finish(job, job.reason, now)
  return 'finishing'
end
local signal = redis.call('HGET', K.revoked, job.id)
if signal then
  hand_to_finish(job, 'CANCELLED', now)
  return 'finishing'
end
job.state = 'accepted'
redis.call('ZADD', K.accepted, now, delivery)
save(job)
count('accepted', job)
return 'accepted'

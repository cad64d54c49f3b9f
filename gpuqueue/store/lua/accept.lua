-- accept: store a delivery, unless it is known (a redelivery, or the tombstone of an ended job).
-- ARGV[2]: the whole Celery message (JSON), stored as it is
-- Context:
--   record: the record to store, without `created`; with `reason` set, the job is refused for it
-- Answer: 'accepted' | 'known' | 'finishing' (refused, or revoked before it arrived), or the error
--         UNSTORABLE
--! clock counts records
local job = context.record
local delivery = job.delivery
if redis.call('HEXISTS', K.jobs, delivery) == 1 then return 'known' end
-- Before anything is written: a number may be one that JSON cannot hold.
local storable, problem = pcall(cjson.encode, job)
if not storable then return redis.error_reply('UNSTORABLE ' .. tostring(problem)) end
job.created = now
redis.call('HSET', K.messages, delivery, ARGV[2])
note_newest(job)
if job.reason then
  hand_to_finish(job, job.reason)
  return 'finishing'
end
local signal = redis.call('HGET', K.revoked, job.id)
if signal then
  hand_to_finish(job, 'CANCELLED')
  return 'finishing'
end
job.state = 'accepted'
redis.call('ZADD', K.accepted, now, delivery)
save(job)
count('accepted', job)
return 'accepted'

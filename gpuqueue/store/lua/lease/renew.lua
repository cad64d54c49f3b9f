-- renew: prolong the lease of the watcher that leads.
-- Context:
--   holder: the watcher
--   milliseconds: from now
-- Answer: 1 if it is prolonged, 0 if another watcher leads or none
if redis.call('GET', K.leader) ~= context.holder then return 0 end
return redis.call('PEXPIRE', K.leader, context.milliseconds)

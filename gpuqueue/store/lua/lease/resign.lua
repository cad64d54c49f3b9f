-- resign: end the lease of the watcher that leads.
-- Context:
--   holder: the watcher
-- Answer: 1 if the lease has ended, 0 if another watcher leads or none
if redis.call('GET', K.leader) ~= context.holder then return 0 end
return redis.call('DEL', K.leader)

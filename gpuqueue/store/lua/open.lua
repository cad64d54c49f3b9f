-- open: let jobs of the class start, since the holders are known to be what really runs. A class is
-- closed at the very start, after Redis has lost all its data, and on another server (see admit).
-- Answer: 1 if this opened the class, 0 if it was open
--! clock records slots server
local opened = redis.call('HSETNX', K.gate, 'opened', string.format('%.6f', now))
local since = redis.call('HGET', K.gate, 'opened')
redis.call('HSET', K.gate, 'opened_on', since .. ' ' .. server())
-- A pod that waited in an older state may run a job by now.
if opened == 1 then redis.call('DEL', K.warm, K.warm_until) end
-- The gate may have been lost alone.
if opened == 1 then slots.recount() end
return opened

-- open: what really runs is known (again), so jobs may start. After a total loss of Redis a class is closed until then.
-- ARGV: now (s)
-- Answer: 1 if this opened the class, 0 if it was open
return redis.call('HSETNX', K.gate, 'opened', ARGV[1])

-- open: let jobs of the class start, since the holders are known to be what really runs. A class is
-- closed at the very start, and after Redis has lost all its data.
-- Answer: 1 if this opened the class, 0 if it was open
--! clock
return redis.call('HSETNX', K.gate, 'opened', string.format('%.6f', now))

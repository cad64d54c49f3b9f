-- open: let jobs of the class start, since the holders are known to be what really runs. A class is
-- closed at the very start, and after Redis has lost all its data.
-- Context:
--   now: Unix seconds, as text: it is stored exactly as given
-- Answer: 1 if this opened the class, 0 if it was open
return redis.call('HSETNX', K.gate, 'opened', context.now)

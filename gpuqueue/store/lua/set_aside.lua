-- set_aside: take a name that is none out of a sorted set of the class; doctor shows it.
-- Context:
--   key: the name of the key, as in keys.py
--   name: what to take out of it
-- Answer: 1 if it was there, else 0
--! clock records slots tenants tenant_lines tenant_turns line damaged
local score = redis.call('ZSCORE', K[context.key], context.name)
if not score then return 0 end
set_aside(context.key, context.name, score)
return redis.call('ZREM', K[context.key], context.name)

-- announce: write by which terms the dispatchers of a site admit jobs, for instances that ask for
-- their next one (see next). Those of sites without a dispatcher are forgotten.
-- Context:
--   site: the host, or the owner of pods
--   terms: spec and by, as in admit; max_attempts and max_disruptions, as in release; settings,
--     with which instances are started ('': any)
--   holds: seconds for which they hold
--   forget_after: seconds after which they are forgotten
-- Answer: nothing
--! clock
context.terms['until'] = now + context.holds
redis.call('HSET', K.terms, context.site, cjson.encode(context.terms))
local found = redis.call('HGETALL', K.terms)
for i = 1, #found, 2 do
  local decoded, terms = pcall(cjson.decode, found[i + 1])
  local over = decoded and type(terms) == 'table' and tonumber(terms['until'])
  local old = not over or over < now - context.forget_after
  if old then redis.call('HDEL', K.terms, found[i]) end
end

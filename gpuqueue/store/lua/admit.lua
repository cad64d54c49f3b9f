-- admit: start every job that can start.
-- Context:
--   spec: the class, as GpuClass.spec returns it, with `owner`: the cluster that runs its attempts
--   now: Unix seconds
--   nonce: random text for tokens, since Lua in Redis has no secure randomness
--   by: the dispatcher that launches the granted attempts
--   most: how many attempts may be granted
-- Answer: list of granted records (JSON)
--! counts records line attempts admission
return admit(context)

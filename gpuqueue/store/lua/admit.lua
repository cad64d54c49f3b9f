-- admit: start every job that can start.
-- Context:
--   spec: the class, as GpuClass.spec returns it, with `owner`: the cluster that runs its attempts
--   nonce: random text for tokens, since Lua in Redis has no secure randomness
--   by: the dispatcher that launches the granted attempts
--   most: how many jobs to look at, so that one call stays short; a large record counts more
-- Answer: {1 if there is more to decide, else 0; granted record (JSON)...}
--! clock bounds counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds
--! places held warm waiting_pods placement reserved gate admission
bounds.follow(context.spec)
return admit(context)

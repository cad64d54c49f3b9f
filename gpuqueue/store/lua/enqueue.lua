-- enqueue: put an accepted job in line, and start every job that can start.
-- Context:
--   delivery: of the accepted job
--   spec, nonce, by, most: see admit
-- Answer: as of admit
--! clock bounds counts records slots tenants tenant_lines tenant_turns domains
--! line damaged attempts server place holds
--! places held warm waiting_pods placement reserved gate admission
bounds.follow(context.spec)
local job = load_or_set_aside(context.delivery)
if job and job.state == 'accepted' then
  enter_line(job)
else
  redis.call('ZREM', K.accepted, context.delivery)
end
return admit(context)

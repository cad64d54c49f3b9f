-- enqueue: put an accepted job in line, and start every job that can start.
-- Context:
--   delivery: of the accepted job
--   spec, nonce, by, most: see admit
-- Answer: as of admit
--! clock counts records line attempts admission
local job = load(context.delivery)
if job and job.state == 'accepted' then enter_line(job) end
return admit(context)

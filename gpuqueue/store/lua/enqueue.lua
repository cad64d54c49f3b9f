-- enqueue: put an accepted job in line, and start whatever can start.
-- ARGV: delivery, spec (JSON), now (s), nonce, by (dispatcher), most
-- Answer: list of granted records (JSON)
--! counts records line attempts admission
local now = tonumber(ARGV[3])
local job = load(ARGV[1])
if job and job.state == 'accepted' then enter_line(job, now) end
return admit(cjson.decode(ARGV[2]), now, ARGV[4], ARGV[5], tonumber(ARGV[6]))

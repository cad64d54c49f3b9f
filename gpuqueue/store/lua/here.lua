-- here: an instance that goes on with several attempts says which one it runs. The annotation of
-- its pod names the first.
-- Context:
--   delivery, attempt, token: of the attempt
-- Answer: the record (JSON); nil if the attempt is not known
--! clock records
local job = load(context.delivery)
if not job or job.attempt ~= context.attempt or job.token ~= context.token then return nil end
return cjson.encode(job)

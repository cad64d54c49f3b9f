-- not_loaded: the executor cannot load the application. It ends without a report, and its release
-- puts the job back into line.
-- Context:
--   delivery, attempt, token: of the attempt
--   error: the text for people
-- Answer: 1 if the attempt is current, else 0
--! clock records
local job = load(context.delivery)
if not job or job.state ~= 'running' then return 0 end
if job.attempt ~= context.attempt or job.token ~= context.token then return 0 end
job.load_error = context.error
save(job)
return 1

-- sampled: the executor reports what it observed of the GPU.
-- Its claim is made again if Redis has lost it.
-- Context:
--   delivery, attempt, token: of the attempt
--   claimed?: the process as it claimed the attempt, as in loaded
--   sample?: gpu, gpu_memory_peak and gpu_memory_own (bytes), gpu_error; absent: no sample
-- Answer: 1 if the attempt is current, else 0
--! clock records slots domains attempts
local job = load(context.delivery)
if not job or job.attempt ~= context.attempt or job.token ~= context.token then return 0 end
if is_another(job, context.claimed) then return 0 end
if context.claimed then recall(job, context.claimed) end
if job.state ~= 'running' and job.state ~= 'reporting' then return 0 end
note_sample(job, context.sample)
save(job)
return 1

-- sampled: the executor tells what it saw of the GPU.
-- ARGV: delivery, attempt, token, what it saw (JSON: gpu, gpu_memory_peak and gpu_memory_own in bytes, gpu_error; '': nothing)
-- Answer: 1 if the attempt is current, else 0
--! records
local job = load(ARGV[1])
if not job or job.attempt ~= tonumber(ARGV[2]) or job.token ~= ARGV[3] then return 0 end
if job.state ~= 'running' and job.state ~= 'reporting' then return 0 end
note_sample(job, ARGV[4])
save(job)
return 1

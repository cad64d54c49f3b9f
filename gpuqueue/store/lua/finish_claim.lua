-- finish_claim: a finisher takes a job whose executor could not write the result. Its lease keeps
-- other finishers away.
-- Context:
--   delivery: of the job
--   finisher: the name of the claim
--   lease: seconds
--   keep: seconds that the tombstone is kept
--   begins?: it begins a try now, which counts; absent: it only takes or keeps the job
--   hold?: what may keep its finisher from a pod: `places`, their names; `most`, seconds that a job
--          waits for them, if they have an end; `tries`, after how many it needs no pod
-- Answer: {'ok', record (JSON), message (JSON)} | {'busy'} | {'superseded'} (ended: no result is
--         due) | {'held'}: another finisher tries the place | {'not finishing'}
--! clock counts records slots tenants tenant_lines tenant_turns line damaged tombstones place
local delivery, finisher = context.delivery, context.finisher
local job = load_or_set_aside(delivery)
if not job or job.state ~= 'finishing' then
  redis.call('ZREM', K.finishing, delivery)
  return { 'not finishing' }
end
local free_from = tonumber(redis.call('ZSCORE', K.finishing, delivery)) or 0
if job.finisher and job.finisher ~= finisher and free_from > now then return { 'busy' } end
-- The task sent its retry (or, by task.replace, its successor) before its process died. That
-- delivery continues the job, so no result is due for this one.
local retried = has_successor(job)
local silent = job.outcome == 'RETRIED' or job.outcome == 'IGNORED'
if silent or (retried and job.reason ~= 'CANCELLED') then
  entomb(job, job.outcome == 'IGNORED' and 'IGNORED' or 'RETRIED', context.keep)
  return { 'superseded' }
end
-- Set aside by finish_held: one finisher tries it, for as long as its claim.
local due = {}
for _, name in ipairs(context.hold and context.hold.places or {}) do
  local entry = place_entry(name)
  if entry and entry['until'] then
    job.finish_waits = job.finish_waits or now
    local lasts = context.hold.most and now - job.finish_waits >= context.hold.most
    if lasts or entry['until'] > now then
      if lasts then job.finishes = math.max(job.finishes or 0, context.hold.tries) end
      job.finish_error, job.finisher = entry.error, ''
      -- A claim is longer than most finishes.
      local again = lasts and now or math.min(entry['until'], now + entry.pause)
      redis.call('ZADD', K.finishing, again, delivery)
      save(job)
      return { 'held' }
    end
    due[#due + 1] = name
  end
end
if context.hold then job.finish_probes = due[1] and due or nil end
for _, name in ipairs(due) do
  local entry = place_entry(name)
  entry.probe, entry.delivery, entry['until'] = finisher, delivery, now + context.lease
  save_place(name, entry)
end
local kept = job.finisher == finisher
job.finisher = finisher
-- Counted before the try, since it may kill its process.
if context.begins then job.finishes = (job.finishes or 0) + 1 end
-- The claim of a finisher's process may be shorter than that of the dispatcher that started it.
local free_at = now + context.lease
if kept then free_at = math.max(free_at, free_from) end
redis.call('ZADD', K.finishing, free_at, delivery)
save(job)
return { 'ok', cjson.encode(job), redis.call('HGET', K.messages, delivery) or '' }

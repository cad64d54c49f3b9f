-- Send events of Celery, each with its channel, once all is written: a call that is refused may be
-- repeated. A user who may not publish sends none.
local function tell(events)
  for _, event in ipairs(events or {}) do redis.pcall('PUBLISH', event[1], event[2]) end
end

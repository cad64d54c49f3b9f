-- The time of Redis in Unix seconds: one clock for all callers.
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000

-- The server that runs the script. A promoted replica, or the same server restarted, is another,
-- and may have an older state.

local known_server

-- '' if the user may not ask.
local function server()
  if not known_server then
    local info = redis.pcall('INFO', 'server')
    known_server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
  end
  return known_server
end

-- Whether the class was opened on another server. `opened_on`: see open; an older version does not
-- write it.
local function is_elsewhere(opened, opened_on)
  local mark = opened .. ' '
  if not opened_on or string.sub(opened_on, 1, #mark) ~= mark then return false end
  local here = server()
  return here ~= '' and string.sub(opened_on, #mark + 1) ~= here
end

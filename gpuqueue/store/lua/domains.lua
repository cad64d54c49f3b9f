-- domains: the domains of a class in Kubernetes are these nodes from now on. May be repeated.
-- Context:
--   spec: the class, as GpuClass.spec returns it
--   nodes?: the name of each node → its slots {shared, exclusive}; absent: the class is one domain
-- Answer: 1 if jobs may start by that which could not before, else 0
--! clock records slots domains place holds places placement
local kind = string.match(redis.call('HGET', K.gate, 'domains') or '', '^%a+')

local function is_known(nodes)
  local total = 0
  for name, own in pairs(nodes) do
    local before = domain.slots(name)
    total = total + 1
    local same = before and before.shared == own.shared
    if not same or before.exclusive ~= own.exclusive then return false end
  end
  -- An older version has not written their sizes.
  local whole = redis.call('HEXISTS', K.gate, 'sizes') == 1
  return whole and kind == 'node' and total == redis.call('HLEN', K.domains)
end

if not context.nodes then
  if kind ~= 'node' then return 0 end
  domain.forget()
  return 1
end
if not is_known(context.nodes) then
  domain.set(context.spec, context.nodes)
  redis.call('HSET', K.gate, 'domains', 'node')
  return 1
end
-- The node of an attempt is known once its pod has one.
local nowhere = domain.without_place()
if nowhere == 0 and domain.are_whole() then return 0 end
domain.place_holders(context.spec)
return domain.without_place() < nowhere and 1 or 0

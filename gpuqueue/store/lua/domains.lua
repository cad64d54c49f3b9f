-- domains: the domains of a class in Kubernetes are these nodes from now on. May be repeated.
-- Context:
--   spec: the class, as GpuClass.spec returns it
--   nodes?: the name of each node → its slots {shared, exclusive}; absent: the class is one domain
--   more: how many nodes an autoscaler may add to these
--   new_node: the slots of each of them
--   fixed: whether the nodes are a list that does not tell of them
--   owner?: the cluster that has the nodes; absent: an older version does not say
-- Answer: {1 if jobs may start by that which could not before, else 0; the cluster whose nodes they
--         stay, since its dispatchers live: '' if those of the context count}
--! clock records slots domains place holds places placement unbound
local kind = string.match(redis.call('HGET', K.gate, 'domains') or '', '^%a+')
local other = domain.other_cluster(context.owner)
if other and domain.lives(other) then return { 0, other } end
if not context.nodes then
  if kind ~= 'node' then return { 0, '' } end
  domain.forget()
  return { 1, '' }
end
local wanted = domain.with_unbound(context.nodes, context.more, context.new_node, context.fixed)
-- An older version has not written their sizes.
local has_sizes = redis.call('HEXISTS', K.gate, 'sizes') == 1
if context.owner then redis.call('HSET', K.gate, 'nodes_of', context.owner) end
if kind ~= 'node' or not has_sizes or not domain.are(wanted) then
  domain.set(context.spec, wanted)
  redis.call('HSET', K.gate, 'domains', 'node')
  return { 1, '' }
end
-- The node of an attempt is known once its pod has one.
local nowhere = domain.without_place()
if nowhere == 0 and domain.are_whole() then return { 0, '' } end
domain.place_holders(context.spec)
return { domain.without_place() < nowhere and 1 or 0, '' }

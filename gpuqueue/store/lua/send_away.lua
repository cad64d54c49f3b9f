-- send_away: pods that wait for a job go, since a pod of another job finds no room.
-- Context:
--   site: the owner of the pods
--   most: how many
-- Answer: how many were told
--! clock records slots domains attempts place holds places bounds warm waiting_pods
local told = 0
for _, instance in ipairs(redis.call('ZRANGE', K.warm_until, 0, MOST_LOOKED_AT - 1)) do
  local pod = waiting_pod(instance)
  if told < context.most and (not pod or pod.site == context.site) then
    ring(instance)
    told = told + 1
  end
end
return told

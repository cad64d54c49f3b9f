-- tick: move everything that is due; see lib/upkeep. A turn does it in a class that is served.
-- Context:
--   most: how many of each kind to move, so that one call stays short; a large record counts more
-- Answer: {moved, next due (Unix seconds as text, '' for none)}
--! clock records slots tenants tenant_lines tenant_turns line damaged upkeep place holds places
local moved = 0
for _, each in ipairs(MOVES) do
  moved = moved + move(K[each[1]], each[2], context.most)
end
forget_places()
local due = earlier(next_place(), next_due())
return { moved, due or '' }

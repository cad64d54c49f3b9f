-- tenants: what each tenant of a class has, and may have. Reads only.
-- Context:
--   most: how many tenants: those with the most jobs, then those that were served last
-- Answer: {number of the state of the rules, half-life in seconds (text), how many tenants there
--         are, field, entry (JSON)... of tenant_rules as one list, and of each tenant a list:
--         {name, shared jobs that wait, exclusive ones, delayed ones, shared ones that run,
--         exclusive ones, GPU-seconds so far (text), what of it still counts (text), 1 if it is at
--         its limit of running jobs, else 0}...}
--! clock records slots tenants tenant_lines tenant_turns
return tenancy.list(context.most)

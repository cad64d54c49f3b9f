-- set_bounds: set the slots and the patience that hold for all dispatchers of a class: those of the
-- leader.
-- Context:
--   own: the class by the settings of the leader, as `spec` of admit
--   by: its group
--   holds: seconds for which they hold
-- Answer: the epoch: how often they have changed
--! clock bounds
return bounds.set(context.own, context.by, context.holds)

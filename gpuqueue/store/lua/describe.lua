-- describe: keep what an application says of its broker and its results.
-- Context:
--   name: APP, or APP@IMAGE for an image that a job has asked for
--   profile: what it says (see model/profile.py)
-- Answer: nothing
--! clock
redis.call('HSET', K.profiles, context.name, cjson.encode({ at = now, profile = context.profile }))

-- send: put a dead letter back onto a list of its queue, as its sender wrote it.
-- Context:
--   id: of the letter
-- Answer: 1, or 0 if there is no such letter
--! clock dead
local raw = redis.call('HGET', K.letters, context.id)
if not raw then return 0 end
redis.call('LPUSH', K.list, cjson.decode(raw).message)
forget_letter(context.id)
return 1

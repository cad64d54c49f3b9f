-- admit: start whatever can start.
-- ARGV: spec (JSON), now (s), nonce, by (dispatcher), most
-- Answer: list of granted records (JSON)
--! counts records line attempts admission
return admit(cjson.decode(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5]))

-- End a log with one outcome, whoever asks for it. The first seal wins, and Redis itself refuses every later
-- append, since no id is larger than the seal's.
--
-- KEYS  1 pointer, 2 log
-- ARGV  1 stream id, 2 outcome, 3 detail, 4 TTL in ms of a sealed log, 5 channel, 6 "PUBLISH" or "SPUBLISH",
--       7 the end offset that the log must have, or "" for any,
--       8 ms for which it may still be found, since a client was handed all of it, or "" if none was
-- Answers  {"sealed"}                    this seal is the one
--          {"sealed", error}             the same, but those who follow could not be told
--          {"was", outcome, detail}      another one was there before
--          {"gone"}                      there is no such log
--          {"at", end offset}            the log ends elsewhere than at ARGV[7]
local SEAL = '18446744073709551615-18446744073709551615'
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if last and last[1] == SEAL then
  return {'was', last[2][2], last[2][4]}
end
local at = last and string.match(last[1], '^%d+') or '0' -- empty: a hidden log that has lost its head
if ARGV[7] ~= '' and ARGV[7] ~= at then
  return {'at', at}
end
if not redis.call('XADD', KEYS[2], 'NOMKSTREAM', SEAL, 'outcome', ARGV[2], 'detail', ARGV[3]) then
  return {'gone'}
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if redis.call('GET', KEYS[1]) == ARGV[1] then
  local ms = ARGV[2] == 'stopped' and '0' or ARGV[8] == '' and ARGV[4] or ARGV[8]
  if ms == '0' then  -- it says who had the pointer last, so that no older stream takes it
    redis.call('SET', KEYS[1], ARGV[1] .. '-', 'PX', ARGV[4])
  else
    redis.call('PEXPIRE', KEYS[1], ms)
  end
end
local told = redis.pcall(ARGV[6], ARGV[5], '18446744073709551615:')
if type(told) == 'table' then
  return {'sealed', told.err}
end
return {'sealed'}

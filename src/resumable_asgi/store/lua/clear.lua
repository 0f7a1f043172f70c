-- A stream is no longer the resumable one of its key; nothing happens if another has taken its place.
--
-- KEYS  1 pointer
-- ARGV  1 stream id, 2 ms for which it may still be found, "0" for none
-- Answers  1 if the pointer was this stream's, else 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local ms = tonumber(ARGV[2])
if ms <= 0 then
  redis.call('DEL', KEYS[1])
elseif redis.call('PTTL', KEYS[1]) > ms then
  redis.call('PEXPIRE', KEYS[1], ms)
end
return 1

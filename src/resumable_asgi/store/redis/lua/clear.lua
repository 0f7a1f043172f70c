-- A stream is no longer the resumable one of its key; nothing happens to the pointer if it is another's by now.
--
-- KEYS  1 pointer, 2 log
-- ARGV  1 stream id, 2 ms for which it may still be found, "0" for none,
--       3 "1" if it must not be found by its id either: it loses its head, and those who follow it go on,
--       4 ms for which it is noted that it had the pointer, so that no older stream takes it
-- Answers  1 if the pointer was this stream's, else 0
if ARGV[3] == '1' then
  redis.call('XDEL', KEYS[2], '0-1')
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local ms = tonumber(ARGV[2])
if ms <= 0 then
  local left = math.min(redis.call('PTTL', KEYS[2]), tonumber(ARGV[4]))
  if left > 0 then
    redis.call('SET', KEYS[1], ARGV[1] .. '-', 'PX', left)
  else
    redis.call('DEL', KEYS[1])
  end
elseif redis.call('PTTL', KEYS[1]) > ms then
  redis.call('PEXPIRE', KEYS[1], ms)
end
return 1

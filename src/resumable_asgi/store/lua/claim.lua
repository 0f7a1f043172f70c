-- Make a log and its key's pointer if they are not there, or read back what is: retry, repair after an outage
-- and renewal of the TTLs are this one script. A first claim needs none of it, and is a plain transaction.
--
-- KEYS  1 pointer, 2 log
-- ARGV  1 stream id, 2 head, 3 TTL in ms of a live log, 4 "1" if the log is to be found by the pointer
-- Answers  {end offset}                   the log is live and holds that many bytes
--          {end offset, outcome, detail}  it is sealed
--
-- The pointer is taken only together with a log that was not there, and only from nobody or an older stream: ids
-- sort by age.
local SEAL = '18446744073709551615-18446744073709551615'
local made = 0
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('XADD', KEYS[2], '0-1', 'head', ARGV[2])
  made = 1
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if last and last[1] == SEAL then
  local before = redis.call('XREVRANGE', KEYS[2], '(' .. SEAL, '-', 'COUNT', 1)[1]
  return {before and string.match(before[1], '^%d+') or '0', last[2][2], last[2][4]}
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
if ARGV[4] == '1' then
  local active = redis.call('GET', KEYS[1])
  if active == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  elseif made == 1 and (not active or active < ARGV[1]) then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
  end
end
return {last and string.match(last[1], '^%d+') or '0'}

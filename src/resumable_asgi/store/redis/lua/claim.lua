-- Make a log and its key's pointer if they are not there, or read back what is: retry, repair after an outage,
-- renewal of the TTLs and of a pointer that was evicted are this one script. A first claim needs none of it, and is
-- a plain transaction.
--
-- KEYS  1 pointer, 2 log
-- ARGV  1 stream id, 2 head, 3 TTL in ms of a live log, 4 "0" if it is not to be found by the pointer,
--       "1" if it is, "2" if it is the latest of its key that this worker knows of
-- Answers  {end offset}                   the log is live and holds that many bytes
--          {end offset, "replaced"}       the same, and a newer stream has the pointer, or had it last
--          {end offset, outcome, detail}  it is sealed
--
-- The pointer is taken together with a log that was not there, and only from nobody or an older stream: ids sort by
-- age. The latest log takes it from nobody also when it is there itself, since then the pointer was evicted.
local SEAL = '18446744073709551615-18446744073709551615'
local made = false
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
if not last then
  local added = redis.pcall('XADD', KEYS[2], '0-1', 'head', ARGV[2])
  made = type(added) == 'string'
  if not made and not string.find(added.err, 'equal or smaller') then  -- else it is there, with neither head nor bytes
    return added
  end
elseif last[1] == SEAL then
  local before = redis.call('XREVRANGE', KEYS[2], '(' .. SEAL, '-', 'COUNT', 1)[1]
  return {before and string.match(before[1], '^%d+') or '0', last[2][2], last[2][4]}
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local stored = last and string.match(last[1], '^%d+') or '0'
if ARGV[4] == '0' then
  return {stored}
end
local active = redis.call('GET', KEYS[1])
if active == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif made and (not active or active < ARGV[1]) or not active and ARGV[4] == '2' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
elseif active and active > ARGV[1] then
  return {stored, 'replaced'}
end
return {stored}

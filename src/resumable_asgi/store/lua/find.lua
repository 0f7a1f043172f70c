-- The resumable log of a key, or the one with a given id.
--
-- KEYS  1 pointer
-- ARGV  1 the log's key less its id, 2 stream id or "" for the resumable one
-- Answers  nil                                     there is none
--          {id, head, end offset}                  it is live
--          {id, head, end offset, outcome, detail} it is sealed
--
-- The log has the pointer's hash tag, so that it is in the same slot of a cluster.
local SEAL = '18446744073709551615-18446744073709551615'
local id = ARGV[2]
if id == '' then
  id = redis.call('GET', KEYS[1])
end
if not id then
  return nil
end
local log = ARGV[1] .. id
local head = redis.call('XRANGE', log, '0-1', '0-1')[1]
if not head then
  return nil
end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if last[1] ~= SEAL then
  return {id, head[2][2], string.match(last[1], '^%d+')}
end
local before = redis.call('XREVRANGE', log, '(' .. SEAL, '-', 'COUNT', 1)[1]
return {id, head[2][2], string.match(before[1], '^%d+'), last[2][2], last[2][4]}

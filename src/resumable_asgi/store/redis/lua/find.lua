-- The resumable log of a key, or the one with a given id.
--
-- KEYS  1 pointer
-- ARGV  1 the log's key less its id, 2 stream id or "" for the resumable one
-- Answers  nil if there is none, or
--          {id, head or nil if the log has outgrown its limit, end offset, outcome and detail or nil while it is
--           live, end offset and data of its first entry or nil: the first byte need not wait for another trip,
--           the worker if the log has no head and tells}
--
-- The log has the pointer's hash tag, so that it is in the same slot of a cluster. A pointer that ends in "-" is a
-- note that the stream of that id was the last resumable one.
local SEAL = '18446744073709551615-18446744073709551615'
local id = ARGV[2]
if id == '' then
  id = redis.call('GET', KEYS[1])
end
if not id or string.sub(id, -1) == '-' then
  return nil
end
local log = ARGV[1] .. id
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if not last then
  return nil
end
local outcome, detail = false, false
if last[1] == SEAL then
  outcome, detail = last[2][2], last[2][4]
  last = redis.call('XREVRANGE', log, '(' .. SEAL, '-', 'COUNT', 1)[1] or {'0-0', {}}
end
local head = redis.call('XRANGE', log, '0-1', '0-1')[1]
local answer = {id, head and head[2][2] or false, string.match(last[1], '^%d+'), outcome, detail, false, false, false}
if not head then
  answer[8] = last[2][3] == 'w' and last[2][4] or false
  return answer
end
local first = redis.call('XRANGE', log, '(0-1', '(' .. SEAL, 'COUNT', 1)[1]
if first and first[2][1] == 'b' then  -- what cannot be read is for the follower to come upon
  answer[6], answer[7] = string.match(first[1], '^%d+'), first[2][2]
end
return answer

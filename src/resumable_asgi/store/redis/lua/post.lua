-- Tell a worker that a stream of its is to end, or was ended. It reads its mailbox with each renewal of its lease.
--
-- KEYS  1 the worker's lease
-- ARGV  1 stream id
-- Answers  1, or 0 if there is no such worker
if not redis.call('GET', KEYS[1]) then
  return 0
end
redis.call('APPEND', KEYS[1], ARGV[1])
return 1

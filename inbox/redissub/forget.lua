-- Removes consumer ARGV[2] of group ARGV[1] of stream KEYS[1], if it holds nothing: what it holds would be lost with it.
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return -1

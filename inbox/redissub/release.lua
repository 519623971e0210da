-- Of the entries ARGV[4..] of stream KEYS[1]: those that consumer ARGV[2] of group ARGV[1] still holds count as idle for ARGV[3] ms.
for i = 4, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'IDLE', ARGV[3], 'JUSTID')
  end
end
return redis.status_reply('OK')

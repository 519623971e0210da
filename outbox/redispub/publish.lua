-- Adds events to the stream KEYS[1], and answers with an error for each, '' if there is none.
-- ARGV: MAXLEN or 0, then of each event: its key, how many fields and values follow, and these.
-- After an event that was not added none of its key is.
local answers, held, at = {}, {}, 2
while ARGV[at] do
  local key, n = ARGV[at], tonumber(ARGV[at + 1])
  local first, last = at + 2, at + 1 + n
  at = last + 1
  if key ~= '' and held[key] then
    answers[#answers + 1] = 'HELD'
  else
    local added
    if ARGV[1] == '0' then
      added = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, first, last))
    else
      added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, first, last))
    end
    if type(added) == 'table' and added.err then
      answers[#answers + 1] = added.err
      held[key] = true
    else
      answers[#answers + 1] = ''
    end
  end
end
return answers

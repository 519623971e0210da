-- A process that is stopped inside a transaction must not keep its locks from whoever takes over. The engine puts
-- its own milliseconds in place of these: a SET takes no parameters, and costs half of what set_config does.
SET LOCAL idle_in_transaction_session_timeout = 5000

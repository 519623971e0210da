-- A process that is stopped inside a transaction must not keep its locks from whoever takes over. ($1: milliseconds)
SELECT set_config('idle_in_transaction_session_timeout', $1, true)

-- A figure that can't be had in five seconds is not worth more. Compiling this one statement would cost ten times what it does.
SELECT set_config('statement_timeout', '5s', true), set_config('jit', 'off', true)

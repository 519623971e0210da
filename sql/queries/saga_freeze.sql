-- Until the end of the transaction nobody starts a saga or ends one, so that a count of them stays true.
LOCK TABLE pgsagaz.saga IN SHARE MODE

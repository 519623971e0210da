-- What a worker says of itself need not be on disk.
SET synchronous_commit = off

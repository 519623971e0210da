-- For a transaction that only looks: compiling a statement to machine code takes longer than any of them runs, and Postgres does it
-- for the number of rows that there are, not that are looked at.
SET LOCAL jit = off

-- What must be there before the first migration: its marks stand in schema_applied.
CREATE SCHEMA IF NOT EXISTS pgsagaz;
CREATE TABLE IF NOT EXISTS pgsagaz.schema_applied (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

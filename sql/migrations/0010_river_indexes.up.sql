-- River never reads these three; they only serve ad-hoc searches by args, metadata and kind, and they
-- cost 40 % of the WAL of a job. The workers' reindexer is told (ReindexerIndexNames).
DROP INDEX pgsagaz.river_job_args_index;
DROP INDEX pgsagaz.river_job_metadata_index;
DROP INDEX pgsagaz.river_job_kind;

-- A job is a hint and lives for a minute: vacuum by count, not by share.
ALTER TABLE pgsagaz.river_job SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);

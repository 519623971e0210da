ALTER TABLE pgsagaz.river_job RESET (
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay,
    autovacuum_analyze_scale_factor, autovacuum_analyze_threshold);
CREATE INDEX river_job_kind ON pgsagaz.river_job USING btree (kind);
CREATE INDEX river_job_metadata_index ON pgsagaz.river_job USING gin (metadata);
CREATE INDEX river_job_args_index ON pgsagaz.river_job USING gin (args);

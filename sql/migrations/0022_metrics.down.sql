DROP VIEW pgsagaz.metrics;
DROP TABLE pgsagaz.metrics_leader;
DROP INDEX pgsagaz.lane_parked_idx;
UPDATE pgsagaz.schema_info SET version = (SELECT max(version) FROM pgsagaz.schema_applied WHERE version < 22);

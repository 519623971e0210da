DROP TABLE pgsagaz.worker, pgsagaz.command, pgsagaz.attempt, pgsagaz.step, pgsagaz.lane,
    pgsagaz.start_key, pgsagaz.saga, pgsagaz.definition;
UPDATE pgsagaz.schema_info SET version = 1, oldest_code = 1;

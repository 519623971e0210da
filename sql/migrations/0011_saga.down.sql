DROP TABLE pgsagaz.worker, pgsagaz.signal, pgsagaz.child, pgsagaz.command, pgsagaz.attempt, pgsagaz.step, pgsagaz.lane,
    pgsagaz.start_key, pgsagaz.deadline, pgsagaz.saga, pgsagaz.definition;
DROP FUNCTION pgsagaz.refuse_transition();
DROP TYPE pgsagaz.waiting, pgsagaz.outcome, pgsagaz.direction, pgsagaz.saga_state;
UPDATE pgsagaz.schema_info SET version = 1, oldest_code = 1;

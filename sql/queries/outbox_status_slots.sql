SELECT g.slot, g.slot = st.slot, pg_total_relation_size(('pgsagaz.outbox_' || g.slot)::regclass),
       CASE WHEN g.slot = st.slot THEN extract(epoch FROM pgsagaz.now() - st.rotated_at)::float8 ELSE 0 END
FROM pgsagaz.outbox_state st, generate_series(0, 3) AS g(slot) ORDER BY g.slot

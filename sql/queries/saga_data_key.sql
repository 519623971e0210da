-- The key that a saga's payloads are under; zero: nobody's, or there is no such saga, as whoever asks will hear next.
SELECT coalesce((SELECT data_key FROM pgsagaz.saga WHERE id = $1), '00000000-0000-0000-0000-000000000000')

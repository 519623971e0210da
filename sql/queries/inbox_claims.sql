SELECT pgsagaz.inbox_claims($1, $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::timestamptz[], $8::integer)

-- With the effect of the redrive. An event that was redriven twice is gone already, or has another attempt id.
DELETE FROM pgsagaz.inbox_dead WHERE id = ANY ($1::bigint[]) AND redrive = ANY ($2::uuid[])

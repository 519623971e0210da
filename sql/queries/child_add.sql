-- Under the parent's lock: what is to be started is recorded before any of it starts.
INSERT INTO pgsagaz.child (parent_id, step, item, name, input)
SELECT $1, $2, u.item - 1, $3, u.input FROM unnest($4::json[]) WITH ORDINALITY AS u(input, item)

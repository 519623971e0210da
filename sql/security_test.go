package sql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestNothingIsForThePublic: of all that there is in the schema, as the catalogue lists it, a role that was given nothing may use nothing: it cannot
// even enter. When the roles have been made, which may, no function is anybody's either.
func TestNothingIsForThePublic(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	public := func(what string) []string {
		t.Helper()
		return list[string](t, pool, what)
	}
	for name, question := range map[string]string{
		"the schema": `SELECT a.privilege_type FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
			WHERE n.nspname = 'pgsagaz' AND a.grantee = 0`,
		"a relation": `SELECT format('%s of %s', a.privilege_type, c.oid::regclass)
			FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) a
			WHERE c.relnamespace = 'pgsagaz'::regnamespace AND c.relkind <> 'i' AND a.grantee = 0`,
		"a column": `SELECT format('%s of %s.%s', a.privilege_type, c.attrelid::regclass, c.attname)
			FROM pg_attribute c JOIN pg_class r ON r.oid = c.attrelid, aclexplode(c.attacl) a
			WHERE r.relnamespace = 'pgsagaz'::regnamespace AND a.grantee = 0`,
		"what is to come": `SELECT d.defaclobjtype::text FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE d.defaclnamespace = 'pgsagaz'::regnamespace AND a.grantee = 0`,
	} {
		for _, found := range public(question) {
			t.Errorf("%s is for the public: %s", name, found)
		}
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pg_class WHERE relnamespace = 'pgsagaz'::regnamespace`); n < 100 {
		t.Errorf("%d relations: does this test look where they are?", n)
	}

	granted(t, pool, func(r sql.Roles) string { return r.Readonly })
	functions := 0
	for _, f := range public(`SELECT format('%s%s', p.oid::regprocedure, CASE WHEN a.grantee = 0 THEN ' PUBLIC' END)
		FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE p.pronamespace = 'pgsagaz'::regnamespace`) {
		if functions++; strings.HasSuffix(f, " PUBLIC") {
			t.Errorf("everybody may call %s", f)
		}
	}
	if functions < 50 {
		t.Errorf("%d functions", functions)
	}
}

// TestNobodyIsLedAstray: a service makes, in a schema of its own that it searches first, functions by the names of those that the functions of the schema
// call, operators that fit better, and tables by the names of ours, also temporary ones. Each of them raises an error, or shows nothing.
// What it may call does what it does.
func TestNobodyIsLedAstray(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	exec(t, pool, `INSERT INTO pgsagaz.definition (name, version, graph) VALUES ('order', 1,
		'{"steps": [{"name": "a", "kind": "await", "after": [], "signal": "go"}], "output": "a"}')`)
	app := granted(t, pool, func(r sql.Roles) string { return r.App })
	exec(t, pool, fmt.Sprintf(`GRANT CREATE, TEMPORARY ON DATABASE %q TO %q`, query[string](t, pool, `SELECT current_database()`), app.Config().User))
	for _, statement := range []string{
		`CREATE SCHEMA astray`,
		`CREATE FUNCTION pg_temp.no() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'astray'; END $$`,
		`DO $$
		DECLARE
			f record;
			o text;
			a text;
			b text;
		BEGIN
			FOR f IN SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS args, pg_get_function_result(p.oid) AS result
				FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.proname = ANY (string_to_array(
				'now clock_timestamp make_interval octet_length char_length length set_config current_setting jsonb_build_object json_build_object to_jsonb '
				'unnest cardinality array_remove array_length coalesce pg_notify nextval gen_random_uuid sha256 convert_to convert_from get_byte uuid_send '
				'pg_try_advisory_xact_lock pg_advisory_xact_lock hashtext hashtextextended extract date_part date_trunc overlay encode decode set_bit set_byte '
				'substr substring lower upper format quote_ident pg_current_xact_id jsonb_typeof json_typeof md5 strpos split_part left right', ' '))
			LOOP
				BEGIN
					EXECUTE format('CREATE FUNCTION astray.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', f.proname, f.args, f.result, 'BEGIN RAISE ''astray''; END');
				EXCEPTION WHEN others THEN -- of a kind that nobody can make
				END;
			END LOOP;
			FOREACH o IN ARRAY ARRAY['=', '<>', '<', '>', '<=', '>=', '||', '+', '-', '*', '/', '->', '->>', '~', '@>'] LOOP
				FOREACH a IN ARRAY ARRAY['text', 'uuid', 'bigint', 'integer', 'timestamptz', 'interval', 'jsonb', 'boolean', 'pgsagaz.saga_state', 'text[]'] LOOP
					FOREACH b IN ARRAY ARRAY[a, 'text', 'interval', 'integer'] LOOP
						BEGIN
							EXECUTE format('CREATE FUNCTION astray.operates(%s, %s) RETURNS boolean LANGUAGE plpgsql AS %L', a, b, 'BEGIN RAISE ''astray''; END');
						EXCEPTION WHEN duplicate_function THEN
						END;
						BEGIN
							EXECUTE format('CREATE OPERATOR astray.%s (FUNCTION = astray.operates, LEFTARG = %s, RIGHTARG = %s)', o, a, b);
						EXCEPTION WHEN duplicate_function THEN
						END;
					END LOOP;
				END LOOP;
			END LOOP;
			FOR f IN SELECT relname FROM pg_class WHERE relnamespace = 'pgsagaz'::regnamespace AND relkind IN ('r', 'p', 'v') LOOP
				EXECUTE format('CREATE TABLE astray.%I (); CREATE TEMPORARY TABLE %I ()', f.relname, f.relname);
			END LOOP;
		END $$`,
		`SET search_path = astray, pg_temp, pg_catalog`,
	} {
		if _, err := app.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%.60s: %v", statement, err)
		}
	}
	for what, most := range map[string]int{
		`SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'astray'::regnamespace AND proname <> 'operates'`: 40,
		`SELECT count(*)::int FROM pg_operator WHERE oprnamespace = 'astray'::regnamespace`:                       300,
		`SELECT count(*)::int FROM pg_class WHERE relnamespace = 'astray'::regnamespace AND relkind = 'r'`:        40,
	} {
		if n := query[int](t, pool, what); n < most {
			t.Errorf("%d: %s", n, what)
		}
	}
	if _, err := app.Exec(t.Context(), `SELECT now()`); err == nil || !strings.Contains(err.Error(), "astray") {
		t.Errorf("the session itself is not led astray: %v", err)
	}

	var id string
	for _, call := range []struct {
		statement string
		args      []any
		into      *string
	}{
		{`SELECT id::text FROM pgsagaz.start('order', '{"ID": "1"}', p_key => 'k', p_tags => '{blue}', p_wake => true)`, nil, &id},
		{`SELECT id::text FROM pgsagaz.saga_by_key('order', 'k') AS k(id)`, nil, nil},
		{`SELECT pgsagaz.signal($1::uuid, 'go', '{}')::text`, []any{&id}, nil},
		{`SELECT state::text FROM pgsagaz.status($1::uuid)`, []any{&id}, nil},
		{`SELECT pgsagaz.publish('orders', '\x7b7d', 'k', p_wake => true)::text`, nil, nil},
		{`SELECT pgsagaz.inbox_claim('me', 'event-1', 'them')::text`, nil, nil},
	} {
		into := call.into
		if into == nil {
			into = new(string)
		}
		if err := app.QueryRow(t.Context(), call.statement, call.args...).Scan(into); err != nil {
			t.Errorf("%s: %v", call.statement, err)
		}
	}
	// That is because their search paths are pinned: without that they are.
	exec(t, pool, `DO $$ DECLARE f regprocedure; BEGIN
		FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pgsagaz'::regnamespace AND prosecdef LOOP EXECUTE format('ALTER FUNCTION %s RESET search_path', f); END LOOP;
	END $$`)
	for _, statement := range []string{`SELECT pgsagaz.publish('orders', '')`, `SELECT id FROM pgsagaz.start('order', '{}')`, `SELECT pgsagaz.inbox_claim('me', 'event-2', 'them')`} {
		if _, err := app.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "astray") {
			t.Errorf("%s is not led astray without its path: %v", statement, err)
		}
	}
	if n := query[int](t, pool, `SELECT (SELECT count(*) FROM pgsagaz.saga) + (SELECT count(*) FROM pgsagaz.outbox) + (SELECT count(*) FROM pgsagaz.consumer_inbox)`); n != 3 {
		t.Errorf("%d rows were written where three belong", n)
	}
}

package sql_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestRiverVersions holds our list against the River of go.mod.
func TestRiverVersions(t *testing.T) {
	t.Parallel()
	const adding = "If it is new: give it the next free number in riverVersions (sql/river.go), with this hash, look at what " +
		"pgsagaz.hint writes and at what migration 10 drops, and say in CHANGELOG.md that a migration has come."
	listed := map[int]sql.RiverVersion{}
	migrations := map[int]bool{}
	for _, v := range sql.RiverVersions() {
		if _, twice := listed[v.River]; twice || migrations[v.Migration] {
			t.Errorf("riverVersions lists River's %d or our %d twice", v.River, v.Migration)
		}
		listed[v.River], migrations[v.Migration] = v, true
	}
	found := 0
	source := riverpgxv5.New(nil).GetMigrationFS("main")
	if err := fs.WalkDir(source, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".up.sql") || !strings.Contains(p, "main") {
			return err
		}
		var version int
		if _, err := fmt.Sscanf(path.Base(p), "%d_", &version); err != nil {
			return err
		}
		if version == 1 { // only River's own record of migrations
			return nil
		}
		body, err := fs.ReadFile(source, p)
		if err != nil {
			return err
		}
		found++
		sum := sha256.Sum256(body)
		hash := hex.EncodeToString(sum[:])[:12]
		v, known := listed[version]
		switch {
		case !known:
			t.Errorf("River has a migration %d (%s, hash %s) that is not among ours. %s", version, p, hash, adding)
		case v.Hash != hash:
			t.Errorf("River's migration %d has changed: hash %s, and ours says %s. If what it does is the same, put the new hash into riverVersions; "+
				"otherwise databases that have run the old one need a migration of our own that makes up the difference.", version, hash, v.Hash)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if found != len(listed) {
		t.Errorf("River has %d migrations, we list %d: one has gone", found, len(listed))
	}
}

// hinted is a job as River would have it inserted by its own client.
type hinted struct {
	SagaID string `json:"saga_id"`
	Lane   int64  `json:"lane"`
	Step   string `json:"step"`
}

func (hinted) Kind() string { return "pgsagaz/order/3" }

// TestHintWritesWhatRiverWrites: column for column, so that one that River adds, or a default that it
// changes, is noticed when River is upgraded.
func TestHintWritesWhatRiverWrites(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Schema: "pgsagaz", Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	saga := uuid.NewString()
	metadata, _ := json.Marshal(map[string]string{"saga": "order", "saga_id": saga, "step": "pay"})
	var theirs, ours int64
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		job, err := client.InsertTx(t.Context(), tx, hinted{saga, 7, "pay"}, &river.InsertOpts{
			Queue: "slow", MaxAttempts: 32767, Metadata: metadata, Tags: []string{"order"},
		})
		if err != nil {
			return err
		}
		theirs = job.Job.ID
		return tx.QueryRow(t.Context(), "SELECT pgsagaz.hint($1, 'order', 3, 7, 'pay', 'slow')", saga).Scan(&ours)
	}); err != nil {
		t.Fatal(err)
	}
	row := func(id int64) map[string]json.RawMessage {
		var columns map[string]json.RawMessage
		if err := json.Unmarshal([]byte(query[string](t, pool, "SELECT to_jsonb(j)::text FROM pgsagaz.river_job j WHERE id = $1", id)), &columns); err != nil {
			t.Fatal(err)
		}
		return columns
	}
	want, got := row(theirs), row(ours)
	if len(want) < 15 {
		t.Fatalf("river_job has only %d columns", len(want))
	}
	for column := range want {
		switch column {
		case "id":
		case "created_at", "scheduled_at":
			at := query[time.Time](t, pool, "SELECT "+column+" FROM pgsagaz.river_job WHERE id = $1", ours)
			if since := time.Since(at); since < -time.Minute || since > time.Minute {
				t.Errorf("%s is %v", column, at)
			}
		default:
			if string(got[column]) != string(want[column]) {
				t.Errorf("column %s: pgsagaz.hint writes %s, River %s", column, got[column], want[column])
			}
		}
	}
}

// TestRiversTablesAreRivers compares what River's own migrator makes with what ours makes of its files.
func TestRiversTablesAreRivers(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	exec(t, pool, "CREATE SCHEMA theirs")
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: "theirs", Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrator.Migrate(t.Context(), rivermigrate.DirectionUp, nil); err != nil {
		t.Fatal(err)
	}
	// What we leave out, and what migration 10 changes.
	without := regexp.MustCompile(`river_migration|INDEX (river_job_args_index|river_job_metadata_index|river_job_kind) `)
	vacuum := regexp.MustCompile(`^r river_job .*$`)
	lines := func(schemaName string) (kept []string) {
		for _, line := range schema(t, pool, schemaName) {
			ofRiver := strings.Contains(line, "river_")
			if ofRiver && !without.MatchString(line) && !strings.Contains(line, "FUNCTION hint(") && !strings.Contains(line, "INSERT INTO") {
				kept = append(kept, vacuum.ReplaceAllString(line, "r river_job"))
			}
		}
		return kept
	}
	want := lines("theirs")
	if len(want) < 50 {
		t.Fatalf("River's own schema holds %d things, that is too few to be true", len(want))
	}
	same(t, "River's tables by our migrations", lines("pgsagaz"), want)

	// The worker tells River's reindexer which indexes there are.
	indexes := list[string](t, pool, "SELECT indexname::text FROM pg_indexes WHERE schemaname = 'pgsagaz' AND tablename = 'river_job' ORDER BY 1")
	if !slices.Equal(indexes, []string{"river_job_pkey", "river_job_prioritized_fetching_index", "river_job_state_and_finalized_at_index", "river_job_unique_idx"}) {
		t.Errorf("the indexes of river_job are %q: see ReindexerIndexNames in jobs/worker.go", indexes)
	}
}

package interleave

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

var (
	all    = flag.Bool("all", false, "run all merges of each race")
	most   = flag.Int("merges", 30, "how many merges of each race to run, if there are so many; of those without sagas four times as many")
	seed   = flag.Uint64("seed", 1, "in which order merges are run")
	replay = flag.String("merge", "", "run this one merge, and tell it")
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

// race is one of the things that are run in many merges: each begins anew.
type race struct {
	acts   []act
	always func() error // must hold after every statement; nil: nothing
	end    func() error // must hold in the end
}

// branch is what is known of the merges that begin alike.
type branch struct {
	next map[byte]*branch
	over bool // all of them were run
}

// walker chooses merges, none of them twice. Every other one is drawn evenly, choice by choice. In those between, who has begun goes on for
// as long as he can, but for two places: what takes a long row of one actor's statements in the midst of another's would hardly be drawn evenly.
type walker struct {
	random *rand.Rand
	root   *branch
	path   []*branch
	at     []string // who could have gone on, along the path

	strides bool         // this merge is one of those between
	order   []int        // who goes first in it
	yields  map[int]bool // where he goes last, from then on

	longest, even int     // merge so far; how many were drawn evenly
	leaves        float64 // the sum of the guesses
}

func newWalker(seed uint64) *walker {
	return &walker{random: rand.New(rand.NewPCG(seed, 0)), root: &branch{}, longest: 1}
}

// begin begins a merge.
func (w *walker) begin() {
	w.path, w.at = []*branch{w.root}, nil
	w.strides = !w.strides
	w.order = w.random.Perm(len(letters))
	w.yields = map[int]bool{w.random.IntN(w.longest): true, w.random.IntN(w.longest): true}
}

// next chooses among those of whom not all merges were run.
func (w *walker) next(open string) byte {
	if !w.strides {
		return open[w.random.IntN(len(open))]
	}
	if w.yields[len(w.at)] {
		w.order = append(w.order[1:], w.order[0])
	}
	for _, i := range w.order {
		if strings.IndexByte(open, letters[i]) >= 0 {
			return letters[i]
		}
	}
	return open[0] // there is one
}

// choose says who is next of those who could be.
func (w *walker) choose(at string) (byte, error) {
	if len(w.path) == 0 {
		w.begin()
	}
	here := w.path[len(w.path)-1]
	if here.next == nil {
		here.next = map[byte]*branch{}
	}
	open := strings.Map(func(r rune) rune {
		if b := here.next[byte(r)]; b != nil && b.over {
			return -1
		}
		return r
	}, at)
	if open == "" { // what was not so before: two who waited for one lock have got it in another order
		open = at
	}
	letter := w.next(open)
	if here.next[letter] == nil {
		here.next[letter] = &branch{}
	}
	w.path, w.at = append(w.path, here.next[letter]), append(w.at, at)
	return letter, nil
}

// ran notes that the merge has come to its end. How many there were to choose from each time, multiplied, is a guess at how many merges there are: where
// they are drawn evenly, the mean of many is right.
func (w *walker) ran() {
	if !w.strides {
		guess := 1.0
		for _, at := range w.at {
			guess *= float64(len(at))
		}
		w.even, w.leaves = w.even+1, w.leaves+guess
	}
	w.longest = max(w.longest, len(w.at))
	if len(w.path) == 0 { // nobody sent anything
		w.root.over = true
		return
	}
	w.path[len(w.path)-1].over = true
	for i := len(w.at) - 1; i >= 0; i-- {
		b := w.path[i]
		b.over = true
		for j := range w.at[i] {
			if c := b.next[w.at[i][j]]; c == nil || !c.over {
				b.over = false
			}
		}
	}
	w.path = nil
}

// again chooses as the word says.
func again(merge string) func(at string) (byte, error) {
	return func(at string) (byte, error) {
		if merge == "" {
			return 0, fmt.Errorf("the merge is longer than -merge says: next could be %s", at)
		}
		next := merge[0]
		if strings.IndexByte(at, next) < 0 {
			return 0, fmt.Errorf("%c is not at a statement, as -merge would have it: next could be %s", next, at)
		}
		merge = merge[1:]
		return next, nil
	}
}

// explore runs a race in as many merges as the flags say. begin makes the rows of one.
func (w *world) explore(begin func() race) {
	w.Helper()
	if *replay != "" {
		merge, err := w.one(begin(), again(*replay))
		w.Logf("merge %s\n%s", word(merge), story(merge))
		if err != nil {
			w.Error(err)
		}
		return
	}
	walk := newWalker(*seed)
	n, budget := 0, *most
	if w.sandbox == nil { // there is nothing to be driven to its end, which is most of the time
		budget *= 4
	}
	for ; !walk.root.over && (*all || n < budget); n++ {
		if deadline, ok := w.Deadline(); ok && time.Until(deadline) < patience/4 {
			w.Errorf("the time is over after %d merges of up to %d statements: give it more by -timeout", n, walk.longest)
			return
		}
		merge, err := w.one(begin(), walk.choose)
		if err != nil {
			w.Fatalf("%v\nafter %d others, in this merge:\n%sonce more: go test ./integration/interleave -v -run '^%s$' -merge %s",
				err, n, story(merge), w.Name(), word(merge))
		}
		walk.ran()
	}
	var deadlocks int
	if err := w.pool.QueryRow(w.Context(), `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`).Scan(&deadlocks); err != nil || deadlocks > 0 {
		w.Errorf("%d deadlocks, which the engine may have tried again: locks are not taken in one order (%v)", deadlocks, err)
	}
	of := fmt.Sprintf("of some %.0e", walk.leaves/float64(walk.even))
	if walk.root.over {
		of = "which are all"
	}
	w.Logf("%d merges of up to %d statements, %s", n, walk.longest, of)
}

// one runs one merge.
func (w *world) one(r race, choose func(string) (byte, error)) (merge []step, err error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	merge, err = w.x.run(ctx, r.acts, choose, r.always)
	if err == nil {
		err = r.end()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no end after %v: %w", patience, err)
	}
	return merge, err
}

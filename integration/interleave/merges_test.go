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
	most   = flag.Int("merges", 40, "how many merges of each race to run, if there are so many")
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

// walker chooses merges, none of them twice.
type walker struct {
	random *rand.Rand
	root   *branch
	path   []*branch
	at     []string // who could have gone on, along the path
	runs   int
	leaves float64 // the sum of the guesses
}

func newWalker(seed uint64) *walker {
	return &walker{random: rand.New(rand.NewPCG(seed, 0)), root: &branch{}}
}

// choose says who is next of those who could be.
func (w *walker) choose(at string) (byte, error) {
	if len(w.path) == 0 {
		w.path, w.at = []*branch{w.root}, nil
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
	letter := open[w.random.IntN(len(open))]
	if here.next[letter] == nil {
		here.next[letter] = &branch{}
	}
	w.path, w.at = append(w.path, here.next[letter]), append(w.at, at)
	return letter, nil
}

// ran notes that the merge has come to its end. How many there were to choose from each time, multiplied, is a guess at how many merges there are: the mean
// of many is right.
func (w *walker) ran() {
	guess := 1.0
	for _, at := range w.at {
		guess *= float64(len(at))
	}
	w.runs, w.leaves = w.runs+1, w.leaves+guess
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
	n, longest := 0, 0
	for ; !walk.root.over && (*all || n < *most); n++ {
		if deadline, ok := w.Deadline(); ok && time.Until(deadline) < patience/4 {
			w.Errorf("the time is over after %d merges of up to %d statements: give it more by -timeout", n, longest)
			return
		}
		merge, err := w.one(begin(), walk.choose)
		if err != nil {
			w.Fatalf("%v\nafter %d others, in this merge:\n%sonce more: go test ./integration/interleave -v -run '^%s$' -merge %s",
				err, n, story(merge), w.Name(), word(merge))
		}
		walk.ran()
		longest = max(longest, len(merge))
	}
	of := fmt.Sprintf("of some %.0e", walk.leaves/float64(n))
	if walk.root.over {
		of = "which are all"
	}
	w.Logf("%d merges of up to %d statements, %s", n, longest, of)
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

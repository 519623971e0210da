package pgengine

import (
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// lane is a lane of a saga that this process drives. Only the goroutine in [Engine.Run] touches it.
type lane struct {
	id, token int64
	sagaID    string
	g         *graph
	opts      RunOptions

	// taken: the lane's row says that it is ours. A saga's first step may be done before it does.
	taken bool

	// Where it stands: what the database knows, too.
	at      task
	queue   string
	attempt int    // failed attempts at this step
	crashes int    // workers that died at it
	inDoubt bool   // something was begun outside here before, and nobody knows how it ended
	waits   string // what the step waited for: signal, sleep, child; "": nothing
	waited  bool   // and its time is up
	lastErr string // of the last failed attempt
	// How often in a row Postgres has kept the step from its end, and how: see patience.
	refused     int
	lastRefusal string
	sagaAt      State // the saga's state when the lane was taken
	input       json.RawMessage
	key         codec.Key                  // that the saga's payloads are under, as its input is
	unreadable  *codec.Error               // why they can't be decoded; nil: they can
	results     map[string]json.RawMessage // what is known in this process of the steps that are done
	doubts      map[string]bool            // steps whose Do is in doubt
	origins     map[string]string          // of steps that were taken over from another saga: which
	cause       Cause
	deadline    time.Time // of the saga, by the database's clock; zero: none
	isChild     bool      // the saga has a parent, which is told of its end
	origin
	halt   *halt // how others stop what it is doing
	paused bool  // its saga was paused while it was at this step

	placed bool // it has a place in a line of its step's Limit

	alone bool // its steps share no transaction, since some that did could not be committed

	// Its budget: a lane that has gone on for long hands over, so that no saga starves the others.
	begun time.Time
	steps int
}

const (
	laneSteps = 32
	laneTime  = 250 * time.Millisecond
)

func (l *lane) node() *node { return &l.g.nodes[l.at.node] }

// onward: what the lane is at can't be taken back, so that it goes on until it is known to be done.
func (l *lane) onward() bool {
	return l.at.direction == Do && l.g.endless(l.at.node) && !failpoint.Mutant("pivot.ignored")
}

// passed: the saga is past its pivot, as far as the lane knows.
func (l *lane) passed() bool {
	return l.g.pivot >= 0 && l.results[l.g.nodes[l.g.pivot].name] != nil
}

// name is that of the step; "" before the first.
func (l *lane) name() string {
	if l.at.node < 0 {
		return ""
	}
	return l.node().name
}

// mayGoOn says whether the lane continues here and now with t, or leaves it to a job: as it does where t is of another
// queue, or of another priority in it.
func (l *lane) mayGoOn(t task) bool {
	if l.at.node >= 0 && !l.taken { // the commit that takes the lane moves it, even if it must be handed back then
		return l.g.atStart(t)
	}
	if l.stopping() {
		return false
	}
	if l.at.node < 0 { // the saga's first step
		return l.g.atStart(t)
	}
	return !l.opts.JobPerStep && l.stays(t) && l.steps < laneSteps && time.Since(l.begun) < l.opts.Budget
}

// stopping says whether the worker is to end.
func (l *lane) stopping() bool {
	select {
	case <-l.opts.Stopping:
		return true
	default:
		return false
	}
}

// move puts the lane at its next step, as the commit has just done in the database.
func (l *lane) move(t task) {
	l.taken = true
	l.begin(t)
}

// begin puts the lane at a step that nobody has tried yet.
func (l *lane) begin(t task) {
	l.at = t
	l.attempt, l.crashes, l.inDoubt, l.lastErr, l.refused = 0, 0, false, "", 0
	l.waits, l.waited, l.paused = "", false, false
	l.steps++
}

// lightFooted says whether the saga's first step may be done before the lane is taken: it is alone, a
// TxStep, and the lane goes on from it with one step that depends on nothing else.
func (l *lane) lightFooted() bool {
	first := l.g.first()
	if len(first) != 1 || l.g.hooks.any() || l.opts.JobPerStep || !l.g.atStart(first[0]) {
		return false
	}
	if f := l.g.nodes[first[0].node]; !f.isTx() && !failpoint.Mutant("claim.call-before-commit") || f.when != nil || len(f.gates) > 0 {
		return false
	}
	n := l.g.next(first[0].node)
	return n.known && len(n.tasks) == 1 && l.g.atStart(n.tasks[0])
}

func (l *lane) call() *call {
	return &call{
		sagaID: l.sagaID, step: l.node().name, direction: l.at.direction, generation: l.at.generation,
		attempt: l.attempt + 1, input: l.input, results: l.results, g: l.g, cause: l.cause, origins: l.origins,
	}
}

func (g *graph) queue(t task) string {
	if t.node < 0 || g.nodes[t.node].queue == "" {
		return defaultQueue
	}
	return g.nodes[t.node].queue
}

// priority is River's, of the jobs of t: that of the step, else that of the saga, else 1.
func (g *graph) priority(t task) int16 {
	p := g.ranks
	if t.node >= 0 && g.nodes[t.node].priority != 0 {
		p = g.nodes[t.node].priority
	}
	return int16(max(p, 1))
}

// atStart: t is of the queue and the priority that a saga starts with.
func (g *graph) atStart(t task) bool {
	return g.queue(t) == defaultQueue && g.priority(t) == g.priority(task{node: -1})
}

// stays: t is of the queue and the priority of the step that the lane is at.
func (l *lane) stays(t task) bool {
	return l.g.queue(t) == l.queue && l.g.priority(t) == l.g.priority(l.at)
}

// lanes are new lanes as the SQL functions take them; all nil: none.
type lanes struct {
	steps, directions []string
	queues            []*string
	generations       []int32
	priorities        []int16
}

func (ls *lanes) add(g *graph, t task) {
	ls.steps = append(ls.steps, g.nodes[t.node].name)
	ls.directions = append(ls.directions, string(t.direction))
	ls.generations = append(ls.generations, int32(t.generation))
	ls.priorities = append(ls.priorities, g.priority(t))
	queue := g.queue(t)
	if g.manual(t) {
		ls.queues = append(ls.queues, nil) // nobody's but an operator's
		return
	}
	ls.queues = append(ls.queues, &queue)
}

// wakes are the queues that have something new to do.
func (ls *lanes) wakes() (queues []string) {
	for _, q := range ls.queues {
		if q != nil {
			queues = append(queues, *q)
		}
	}
	return queues
}

// divide chooses, of what is ready, the step that the lane goes on with, if any: the others leave as jobs.
func (l *lane) divide(tasks []task) (here *task, others lanes) {
	for i, t := range tasks {
		if here == nil && !l.g.manual(t) && l.mayGoOn(t) {
			here = &tasks[i]
			continue
		}
		others.add(l.g, t)
	}
	return here, others
}

// newToken makes the fence of one take-over. It is never 0.
func newToken() int64 { return rand.Int64N(1<<62) + 1 }

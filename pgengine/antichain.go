package pgengine

// antichain gives a largest set of steps of which none comes after another: all of them may be under way
// at once. descendants is the transitive closure.
//
// By Dilworth's theorem it is as large as the fewest chains that hold all steps. Those are found by a largest
// matching of each step, as somebody's predecessor, with a step after it (by Hopcroft and Karp, in which
// each round lengthens many chains at once), and by König's theorem the steps that no alternating way
// from an unmatched one makes part of a smallest cover are the set.
func antichain(descendants [][]bool) []int {
	n := len(descendants)
	after := make([][]int, n)
	for i := range n {
		for j := range n {
			if descendants[i][j] {
				after[i] = append(after[i], j)
			}
		}
	}
	next, previous := make([]int, n), make([]int, n) // the matching: next in i's chain, and the one before j
	for i := range n {
		next[i], previous[i] = -1, -1
	}
	level := make([]int, n)
	// levels counts the alternating steps from an unmatched predecessor, and says whether any way ends at an
	// unmatched successor.
	levels := func() (found bool) {
		var queue []int
		for i := range n {
			level[i] = -1
			if next[i] < 0 {
				level[i] = 0
				queue = append(queue, i)
			}
		}
		for len(queue) > 0 {
			i := queue[0]
			queue = queue[1:]
			for _, j := range after[i] {
				switch k := previous[j]; {
				case k < 0:
					found = true
				case level[k] < 0:
					level[k] = level[i] + 1
					queue = append(queue, k)
				}
			}
		}
		return found
	}
	var lengthen func(i int) bool
	lengthen = func(i int) bool {
		for _, j := range after[i] {
			k := previous[j]
			if k < 0 || level[k] == level[i]+1 && lengthen(k) {
				next[i], previous[j] = j, i
				return true
			}
		}
		level[i] = -1 // no way from here in this round
		return false
	}
	for levels() {
		for i := range n {
			if next[i] < 0 {
				lengthen(i)
			}
		}
	}
	// What the last levels reached: predecessors with a level, and all their successors. The cover is the
	// predecessors without and the successors with.
	reached := make([]bool, n)
	for i := range n {
		if level[i] >= 0 {
			for _, j := range after[i] {
				reached[j] = true
			}
		}
	}
	var set []int
	for i := range n {
		if level[i] >= 0 && !reached[i] {
			set = append(set, i)
		}
	}
	return set
}

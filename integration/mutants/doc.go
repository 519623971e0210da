// Package mutants plants each of the bugs that package mutant lists, one at a time, and runs the tests that have to find it:
// a bug that survives fails the run. It needs the build tag failpoint.
//
//	make mutants                                                                    # all of them, and their table
//	go test -tags failpoint ./integration/mutants                                   # for a minute, others each hour
//	go test -tags failpoint ./integration/mutants -v -mutants settle.no-token       # this one
package mutants

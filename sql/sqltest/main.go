package sqltest

import (
	"fmt"
	"os"
	"testing"
)

// Main runs a package's tests and then stops the server they used, which otherwise is killed with the process:
//
//	func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }
func Main(m *testing.M) int { return Tests{m}.Run() }

// Tests are a package's tests and the end of their server, for those who look at what is left when both are over:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(sqltest.Tests{M: m}) }
type Tests struct{ *testing.M }

// Run returns the exit code of the process, which is that of the tests: a server that does not stop is only reported.
func (t Tests) Run() int {
	code := t.M.Run()
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "sqltest: stop the server:", err)
	}
	return code
}

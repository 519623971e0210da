package monitoring

import (
	"os"
	"testing"

	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

// Command pgsagaz runs sagas and looks after them. It is made to be copied: a program of yours is this
// file with your own sagas in place of the demo's.
package main

import (
	"os"

	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/cli"
	"github.com/pgsagaz/pgsagaz/cmd/pgsagaz/demo"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

func main() {
	os.Exit(cli.Program{
		Sagas: []pgengine.Definition{demo.Fulfil(&demo.BankClient{}, demo.Mail{Busy: 0.1})},
		Demo:  true, // the command demo; leave it out of yours
	}.Main())
}

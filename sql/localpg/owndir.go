package localpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	dirPrefix = "pgsagaz-postgres-"
	lockName  = "owner.lock"
)

// ownDir is a server's directory. Its lock file is locked for as long as the process lives that made it: the kernel lets go of
// the lock however the process ends. That tells the directory of a live server from one left behind, and unlike a process id
// it is not mistaken about ids that were given out again or belong to another container.
type ownDir struct {
	path string
	lock *os.File
}

// newOwnDir makes a directory in parent, which the account may enter, after removing those left behind there.
func newOwnDir(parent string, account *account) (_ *ownDir, err error) {
	if parent == "" {
		parent = os.TempDir()
	}
	if parent, err = filepath.Abs(parent); err != nil {
		return nil, err
	}
	removeAbandoned(parent)
	path, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return nil, err
	}
	d := &ownDir{path: path}
	if d.lock, err = claim(path); err == nil && account != nil {
		err = os.Chmod(path, 0o711) // the server, run by another user, has to pass; the data in it is closed
	}
	if err != nil {
		return nil, errors.Join(err, d.remove())
	}
	return d, nil
}

// claim makes the lock file under another name first, so that nobody ever sees it unlocked.
func claim(dir string) (*os.File, error) {
	temporary := filepath.Join(dir, lockName+".new")
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := tryLock(file); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", temporary, err), file.Close())
	}
	if err := os.Rename(temporary, filepath.Join(dir, lockName)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (d *ownDir) remove() error {
	err := os.RemoveAll(d.path)
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// removeAbandoned removes the directories of the calling user's processes that did not live to do it. Where the kernel does not
// end the server of a killed process, the server does so itself within a minute, when it sees that its directory is gone.
// It does what it can: what is left is for the next time.
func removeAbandoned(parent string) {
	locks, _ := filepath.Glob(filepath.Join(parent, dirPrefix+"*", lockName))
	for _, name := range locks {
		if !isOwn(name) {
			continue
		}
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if tryLock(file) == nil {
			_ = os.RemoveAll(filepath.Dir(name))
		}
		_ = file.Close()
	}
}

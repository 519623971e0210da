//go:build unix

package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// account is a user other than the calling one. A nil *account is the calling user.
type account struct {
	name     string
	uid, gid uint32
}

// serverAccount returns the account under which the server runs: for root an unprivileged one, as Postgres refuses root.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, err
		}
		return &account{name, uint32(uid), uint32(gid)}, nil
	}
	return &account{"nobody", 65534, 65534}, nil
}

// give makes the account the owner of a file.
func (a *account) give(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// canEnter tells which directory above path is closed to the account, if one is.
func (a *account) canEnter(path string) error {
	if a == nil {
		return nil
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		pass := os.FileMode(0o001)
		switch stat := info.Sys().(*syscall.Stat_t); {
		case stat.Uid == a.uid:
			pass = 0o100
		case stat.Gid == a.gid:
			pass = 0o010
		}
		if info.Mode()&pass == 0 {
			return fmt.Errorf("%s is closed to the user %s, who runs the server because Postgres refuses root: "+
				"open %s, choose another place, or do not run as root", path, a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// attributes make a process run as the account, end with its parent where the system can do it, and be deaf to the terminal:
// after Ctrl-C it is the program that decides when its server goes.
func (a *account) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		attributes.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	endWithParent(attributes)
	return attributes
}

// signal asks for a shutdown. A process that is gone already is no error.
func (p *postmaster) signal(how shutdown) error {
	sig := syscall.SIGINT
	if how == immediate {
		sig = syscall.SIGQUIT
	}
	if err := p.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// isOwn reports whether the calling user made the file.
func isOwn(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && int(stat.Uid) == os.Geteuid()
}

// tryLock locks a file until it is closed or the process ends; it fails if somebody else has it locked.
func tryLock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// lockWait locks the file of that name, which it makes, once nobody else has it locked.
func lockWait(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for tryLock(file) != nil {
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return func() { _ = file.Close() }, nil
}

// defaultCache is where downloads are kept.
func defaultCache() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/pgsagaz/postgres", nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "pgsagaz", "postgres"), err
}

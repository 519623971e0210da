package integration

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// wallClock is the function by which this process asks for the time. The Go runtime calls no library for that, but code that the kernel maps into
// each process (the vDSO), of which each has its own copy once it has written to it.
var wallClock struct {
	sync.Mutex
	at int64 // where the function is; 0: it is the kernel's own yet
}

// askKernel is a function in its place: it asks the kernel, and adds the number behind it if the wall clock is asked for.
var askKernel = []byte{
	0xb8, 228, 0, 0, 0, // mov eax, clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi: is it CLOCK_REALTIME?
	0x75, 10, // jne to the ret
	0x48, 0x8b, 0x0d, 6, 0, 0, 0, // mov rcx, [number]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3,       // ret
	0xcc, 0xcc, // up to eight bytes
	0, 0, 0, 0, 0, 0, 0, 0, // number: seconds
}

// setWallClock sets the clock of this process so much ahead of the machine's; the monotonic one goes on as it does.
func setWallClock(ahead time.Duration) error {
	wallClock.Lock()
	defer wallClock.Unlock()
	memory, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	code := bytes.Clone(askKernel)
	number := len(code) - 8
	binary.LittleEndian.PutUint64(code[number:], uint64(ahead/time.Second))
	if wallClock.at != 0 {
		_, err = memory.WriteAt(code[number:], wallClock.at+int64(number))
		return err
	}
	at, err := findClock(memory)
	if err == nil {
		_, err = memory.WriteAt(code, at)
	}
	if err == nil {
		wallClock.at = at
	}
	return err
}

func findClock(memory *os.File) (at int64, err error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, err
		}
		image := make([]byte, to-from)
		if _, err := memory.ReadAt(image, from); err != nil {
			return 0, err
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, err
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return 0, err
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + int64(s.Value), nil
			}
		}
	}
	return 0, errors.New("this kernel maps no clock into processes")
}

// A clock that was set shows it, and what is measured by the other does not.
func TestSetWallClock(t *testing.T) {
	defer func() { _ = setWallClock(0) }()
	begun := time.Now()
	if err := setWallClock(time.Hour); err != nil {
		lacks(t, err)
	}
	ahead := time.Now()
	if err := setWallClock(-time.Hour); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	if d := ahead.Round(0).Sub(begun.Round(0)); d < 59*time.Minute {
		t.Errorf("ahead by %v", d)
	}
	if d := back.Round(0).Sub(begun.Round(0)); d > -59*time.Minute {
		t.Errorf("back by %v", d)
	}
	if d := back.Sub(begun); d < 0 || d > time.Minute {
		t.Errorf("it took %v", d)
	}
}

package main

import (
	"log"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// run becomes the command, on these cores ("0", "1,2"), and ends when whoever started it ends.
func run(arguments []string) {
	runtime.LockOSThread()
	var mask [16]uint64
	for text := range strings.SplitSeq(arguments[0], ",") {
		core, err := strconv.Atoi(text)
		if err != nil {
			log.Fatal(err)
		}
		mask[core/64] |= 1 << (core % 64)
	}
	call(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	call(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
	path, err := exec.LookPath(arguments[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(syscall.Exec(path, arguments[1:], os.Environ()))
}

func call(number, a, b, c uintptr) {
	if _, _, err := syscall.RawSyscall(number, a, b, c); err != 0 {
		log.Fatal(err)
	}
}

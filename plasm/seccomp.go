package plasm

import (
	"fmt"
	"os"
	"slices"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// calls are the system calls that Go's runtime and the engine need while a job runs: memory, threads,
// time, and the open files. Nothing here opens a file, a socket or another process.
var calls = []string{
	"read", "write", "readv", "writev", "pread64", "lseek", "close", "fstat", "fcntl",
	"epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "pipe2", "poll", "ppoll",
	"munmap", "madvise", "mincore", "brk", "mremap",
	"futex", "exit", "exit_group", "gettid", "getpid", "sched_yield", "sched_getaffinity", "set_robust_list", "rseq", "membarrier",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
	"nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "getrusage", "getrandom",
}

// compilerCalls are those that the compiler needs in addition until the code of the job is ready: the
// second filter, and the limit of memory without that code.
var compilerCalls = []string{"seccomp", "prlimit64", "getrlimit", "setrlimit"}

// filter refuses all other system calls of this process permanently. With code set, it may make memory
// executable; a second call without it takes that away. The heap grows by at most growth bytes at once: Go's
// runtime maps them at a fixed address, which it has reserved before. more are the names of further calls
// that it allows.
func filter(code bool, growth int64, more ...string) error {
	info, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	memory := seccomp.Condition{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_EXEC}
	names := slices.Concat(calls, more)
	if code {
		names = append(names, compilerCalls...)
		memory = seccomp.Condition{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_GROWSDOWN}
	}
	known := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, ok := info.SyscallNames[name]
		return !ok
	})
	err = seccomp.LoadFilter(seccomp.Filter{
		Flag: seccomp.FilterFlagTSync, // the parent process has set no_new_privs
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno, // EPERM
			Syscalls: []seccomp.SyscallGroup{
				{Names: known, Action: seccomp.ActionAllow},
				{
					NamesWithCondtions: []seccomp.NameWithConditions{
						{Name: "mmap", Conditions: seccomp.ArgumentConditions{memory, {Argument: 3, Operation: seccomp.BitsNotSet, Value: unix.MAP_FIXED}}},
						{Name: "mmap", Conditions: seccomp.ArgumentConditions{memory, {Argument: 1, Operation: seccomp.LessOrEqual, Value: uint64(growth) * raceFactor}}},
						{Name: "mprotect", Conditions: seccomp.ArgumentConditions{memory}},
						{Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}}},
						{Name: "tgkill", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: uint64(os.Getpid())}}},
					},
					Action: seccomp.ActionAllow,
				},
				// The C library tries clone only after this error.
				{Names: []string{"clone3"}, Action: seccomp.Action(0x00050000 | uint32(unix.ENOSYS))},
			},
		},
	})
	if err != nil {
		return fmt.Errorf("system calls: %w", err)
	}
	return nil
}

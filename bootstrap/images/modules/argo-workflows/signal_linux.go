package osspecific

import (
	"errors"
	"os"
	"syscall"

	argoerrors "github.com/argoproj/argo-workflows/v4/util/errors"
)

// The published module has this file for other systems only. What it offers is
// what theirs do.

// Term is the signal that asks a process to end.
const Term = syscall.SIGTERM

// CanIgnoreSignal tells whether a signal is of no concern to the command that
// the executor runs.
func CanIgnoreSignal(s os.Signal) bool {
	return s == syscall.SIGCHLD || s == syscall.SIGURG
}

// Kill signals a process with its group, if it has one.
func Kill(pid int, s syscall.Signal) error {
	if group, err := syscall.Getpgid(pid); err == nil {
		return syscall.Kill(-group, s)
	}
	return syscall.Kill(pid, s)
}

// Setpgid gives the process to come a group of its own.
func Setpgid(a *syscall.SysProcAttr) { a.Setpgid = true }

// Wait returns when the process has ended, with its exit code as an error. As
// PID 1 the executor also reaps what the process left behind.
func Wait(process *os.Process) error {
	pid := process.Pid
	if err := process.Release(); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case ended == pid && status.Exited():
			return argoerrors.NewExitErr(status.ExitStatus())
		case ended == pid && status.Signaled():
			return argoerrors.NewExitErr(128 + int(status.Signal()))
		}
	}
}

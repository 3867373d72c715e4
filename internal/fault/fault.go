// Package fault holds errors that know the process's exit code and a hint for the person reading them.
//
// Codes: 0 passed, 1 a claim did not hold or work failed, 2 wrong use, 3 could not test, 130 interrupted.
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Exit codes.
const (
	codeFailed      = 1
	codeUsage       = 2
	codeCannotTest  = 3
	codeInterrupted = 130 // 128 + SIGINT, as shells report it
)

// Error is an error with an exit code and an optional next step; Err must be set. A Code of 0 counts as 1.
type Error struct {
	Code int
	Hint string
	Err  error
}

// Error returns the text of the wrapped error; the hint is not part of it.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// Usage says that the command was used wrongly (code 2); format may wrap an error with %w.
func Usage(hint, format string, args ...any) error {
	return &Error{Code: codeUsage, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// CannotTest says that nothing could be measured (code 3): never a pass, and not a failed claim.
func CannotTest(hint, format string, args ...any) error {
	return &Error{Code: codeCannotTest, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// Hinted adds a hint to err and keeps its code; nil stays nil.
func Hinted(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Code: Code(err), Hint: hint, Err: err}
}

// Code returns the exit code for err: 0 for nil, the outermost Error's own code, 130 for context.Canceled, otherwise 1.
func Code(err error) int {
	var e *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return max(e.Code, codeFailed) // an error is never a success
	case errors.Is(err, context.Canceled):
		return codeInterrupted
	}
	return codeFailed
}

// Hint returns the outermost hint in err's chain, or "".
func Hint(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

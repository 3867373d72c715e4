package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestCodeOfAnError(t *testing.T) {
	plain := errors.New("boom")
	for _, c := range []struct {
		name string
		err  error
		want int
	}{
		{"no error passes", nil, 0},
		{"a plain error fails", plain, 1},
		{"wrong use is 2", Usage("", "bad flag %q", "x"), 2},
		{"nothing measured is 3", CannotTest("", "lab not ready"), 3},
		{"a code survives wrapping", fmt.Errorf("doing: %w", CannotTest("", "lab not ready")), 3},
		{"a code survives joining", errors.Join(plain, Usage("", "bad")), 2},
		{"^C is 130", fmt.Errorf("waiting: %w", context.Canceled), 130},
		{"a deadline is a failure", context.DeadlineExceeded, 1},
		{"a hint keeps the code of wrong use", Hinted(Usage("", "bad"), "try"), 2},
		{"a hint keeps the code of ^C", Hinted(context.Canceled, "try"), 130},
		{"a hint keeps the code of a plain error", Hinted(plain, "try"), 1},
		{"an error without a code is not a pass", &Error{Err: plain}, 1},
		{"a hint on nothing is nothing", Hinted(nil, "try"), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Code(c.err); got != c.want {
				t.Errorf("Code(%v) = %d, want %d", c.err, got, c.want)
			}
		})
	}
}

func TestHintOfAnError(t *testing.T) {
	inner := Usage("inner", "bad")
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"none on nil", nil, ""},
		{"none on a plain error", errors.New("boom"), ""},
		{"found through wrapping", fmt.Errorf("doing: %w", inner), "inner"},
		{"the outermost wins", Hinted(inner, "outer"), "outer"},
		{"an empty one does not hide another", Hinted(inner, ""), "inner"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Hint(c.err); got != c.want {
				t.Errorf("Hint(%v) = %q, want %q", c.err, got, c.want)
			}
		})
	}
}

func TestAnErrorKeepsItsCauseAndItsText(t *testing.T) {
	err := Hinted(Usage("", "reading %s: %w", "x", io.ErrUnexpectedEOF), "try again")
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	if got, want := err.Error(), "reading x: unexpected EOF"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
}

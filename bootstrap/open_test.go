package bootstrap

import (
	"strings"
	"testing"

	"mllab.local/addons"
	"mllab.local/internal/fault"
)

func TestWhoeverOnlyLooksDoesNotWaitForTheLock(t *testing.T) {
	o := Options{Name: "mllab", State: t.TempDir()}
	unlock, err := o.store().lock("scenario canary")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := Open(t.Context(), o, "scenario all"); fault.Code(err) != 3 || fault.Hint(err) == "" || !strings.Contains(err.Error(), "is locked: mllab scenario canary") {
		t.Errorf("a second one that works on the lab: %v", err)
	}
	if _, err := OpenReadOnly(t.Context(), o); err == nil || err.Error() != `there is no lab "mllab"` {
		t.Errorf("one that only looks: %v", err)
	}
}

func TestTheCommandThatAddsAnAddonIsForTheLabThatLacksIt(t *testing.T) {
	for want, lab := range map[string]Running{
		"mllab up --core --with git":              {},
		"mllab up --core --with git --name lab-2": {options: Options{Name: "lab-2"}, Addons: addons.Core()},
		"mllab up --with git --name lab-2":        {options: Options{Name: "lab-2"}, Addons: addons.Whole()},
	} {
		if got := lab.Adding([]string{"git"}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

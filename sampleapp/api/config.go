package api

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// What the model wants of a number or a duration.
const (
	WantPercent  = "a number from 0 to 100"
	WantDuration = `a duration of 0 or more, such as "250ms"`
)

// IsPercent reports whether p is a percentage.
func IsPercent(p float64) bool { return p >= 0 && p <= 100 }

// CheckVariable returns what the model wants of a variable of its environment, or "" if it takes value, as far as that
// can be said without its machine. An empty variable counts as unset.
func CheckVariable(name, value string) (want string) {
	integer := func(low, high int) string {
		if n, err := strconv.Atoi(value); err != nil || n < low || n > high {
			return fmt.Sprintf("a whole number from %d to %d", low, high)
		}
		return ""
	}
	if value == "" {
		return ""
	}
	switch name {
	case "TARGET", "K_REVISION", "POD_NAME": // what goes into a header must be what comes out of it
		if len(value) > 253 || value != strings.TrimSpace(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return "at most 253 printable ASCII characters without spaces at the ends"
		}
	case "PORT", "ADMIN_PORT":
		return integer(0, 65535)
	case "SEEN_KEEP":
		return integer(1, 1_000_000)
	case "MAX_BODY":
		return integer(1, 1<<30)
	case "DELAY", "DRAIN":
		if d, err := time.ParseDuration(value); err != nil || d < 0 {
			return WantDuration
		}
	case "FAIL_PERCENT", "CONVERT_PERCENT", "DRIFT_PERCENT", "CAPTURE_PERCENT":
		if p, err := strconv.ParseFloat(value, 64); err != nil || !IsPercent(p) {
			return WantPercent
		}
	case "RELAY":
		if u, err := url.Parse(value); err != nil || u.Scheme != "http" || u.Hostname() == "" {
			return `a URL such as "http://model.demo"`
		}
	}
	return ""
}

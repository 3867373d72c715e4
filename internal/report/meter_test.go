package report

import (
	"testing"
	"time"
)

func TestAMeterSaysAmountRateAndTimeLeft(t *testing.T) {
	begin := time.Unix(0, 0)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	type step struct {
		s           int
		done, total int64
	}
	for _, c := range []struct {
		name  string
		unit  string
		steps []step
		now   int
		want  string
	}{
		{"no rate at the beginning", "B", []step{{0, 0, 5000}}, 0, "0 B/5.0 kB"},
		{"bytes", "B", []step{{0, 0, 5000}, {2, 2000, 5000}}, 2, "2.0 kB/5.0 kB, 1.0 kB/s, 3s left"},
		{"bytes of an unknown total", "B", []step{{0, 0, 0}, {2, 2_000_000, 0}}, 2, "2.0 MB, 1.0 MB/s"},
		{"counts", "images", []step{{0, 0, 40}, {4, 10, 40}}, 4, "10/40 images, 2.5/s, 12s left"},
		{"slow counts are per minute", "images", []step{{0, 0, 4}, {10, 1, 4}}, 10, "1/4 images, 6.0/min, 30s left"},
		{"what was there before is not speed", "B", []step{{0, 900, 1000}, {10, 950, 1000}}, 10, "950 B/1.0 kB, 5 B/s, 10s left"},
		{"the rate is of the last 15 s", "B", []step{{0, 0, 9000}, {1, 5000, 9000}, {11, 5010, 9000}, {21, 5020, 9000}}, 21, "5.0 kB/9.0 kB, 1 B/s, 1h 06m left"},
		{"a stall has no rate", "B", []step{{0, 0, 9000}, {1, 5000, 9000}, {2, 5000, 9000}}, 60, "5.0 kB/9.0 kB"},
		{"a new count begins anew", "B", []step{{0, 0, 9000}, {5, 8000, 9000}, {6, 100, 9000}}, 6, "100 B/9.0 kB"},
		{"nothing left when complete", "B", []step{{0, 0, 9000}, {5, 9000, 9000}}, 5, "9.0 kB/9.0 kB"},
		{"more than a day says nothing", "B", []step{{0, 0, 1_000_000_000}, {10, 10, 1_000_000_000}}, 10, "10 B/1.0 GB, 1 B/s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &meter{}
			for _, s := range c.steps {
				m.set(at(s.s), s.done, s.total, c.unit)
			}
			if got := m.text(at(c.now)); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestAMeterForgetsOldSamples(t *testing.T) {
	m := &meter{}
	now := time.Unix(0, 0)
	for i := range int64(100_000) {
		now = now.Add(10 * time.Millisecond)
		m.set(now, i, 0, "B")
		m.text(now)
	}
	if len(m.recent) > 20 {
		t.Errorf("%d samples kept", len(m.recent))
	}
}

func TestSizesAndDurationsForPeople(t *testing.T) {
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_960: "1.0 MB", 1.2e9: "1.2 GB", 5e18: "5000.0 PB"} {
		if got := size(n); got != want {
			t.Errorf("size(%g) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0.0 s", 14200 * time.Millisecond: "14.2 s", 59990 * time.Millisecond: "59.9 s", 62 * time.Second: "1m 02s", 2*time.Hour + 5*time.Minute: "2h 05m"} {
		if got := seconds(d); got != want {
			t.Errorf("seconds(%s) = %q, want %q", d, got, want)
		}
	}
}

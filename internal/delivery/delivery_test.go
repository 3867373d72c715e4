package delivery

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	card := Card{"r-1", "model-1", "i@sha256:1", "sha256:2", "sha256:3", "sha256:4", "c", "0.9", "0.8..1.0", "143"}
	fields, err := card.Fields()
	if err != nil || len(fields) != reflect.TypeFor[Card]().NumField() || fields["interval95"] != "0.8..1.0" {
		t.Errorf("%v, %v", fields, err)
	}
	if again, err := ReadCard(fields); err != nil || again != card {
		t.Errorf("%+v, %v; want %+v", again, err, card)
	}
	if text, err := json.Marshal(Traffic(Leg{RevisionName: "a", Percent: 90}, Leg{LatestRevision: true, Percent: 10})); err != nil ||
		string(text) != `[{"op":"add","path":"/spec/traffic","value":[{"revisionName":"a","latestRevision":false,"percent":90},{"latestRevision":true,"percent":10}]}]` {
		t.Errorf("%s, %v", text, err)
	}
}

func TestTheLastWordFitsIntoAPodsMessage(t *testing.T) {
	for _, long := range []string{"", "short", strings.Repeat("x", 9000), strings.Repeat("<", 9000), strings.Repeat("\u00e4", 2030), strings.Repeat("\x00\u2026", 1500), strings.Repeat("x", 4000)} {
		text, err := End{Run: "r-1", Workflow: "w", Error: long}.Message()
		if err != nil || len(text) > maxMessage {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		e, err := ReadEnd(string(text))
		if err != nil || e.Run != "r-1" || !utf8.ValidString(e.Error) || !strings.HasPrefix(long, strings.TrimSuffix(e.Error, "…")) || long != "" && long[0] == 'x' && len(e.Error) < 500 {
			t.Errorf("%+v, %v", e, err)
		}
	}
	for _, other := range []string{"", "{", "[]", `{"error":"x"}`, "OOMKilled"} {
		if e, err := ReadEnd(other); err == nil {
			t.Errorf("%q is read as %+v", other, e)
		}
	}
}

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTheSpaceOfItsVolumeIsMeasured(t *testing.T) {
	dir := t.TempDir()
	size, _, err := volume(dir).space()
	if err != nil {
		t.Fatal(err)
	}
	_, s, _ := start(t, map[string]string{"VOLUME": dir})
	_, body := do(t, "GET", s.URL+"/metrics", "")
	for _, want := range []string{
		fmt.Sprintf(`node_filesystem_size_bytes{mountpoint=%q} %v`+"\n", dir, float64(size)),
		fmt.Sprintf(`node_filesystem_avail_bytes{mountpoint=%q} `, dir),
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	_, s, _ = start(t, nil)
	if _, body := do(t, "GET", s.URL+"/metrics", ""); strings.Contains(body, "node_filesystem") {
		t.Errorf("without a volume it has the space of one:\n%s", body)
	}
}

func TestAFaultFillsNoDisk(t *testing.T) {
	dir := t.TempDir()
	if size, _, err := volume(dir).space(); err != nil || size <= maxFilled {
		t.Skipf("the folder for tests is on a filesystem of %d bytes, %v", size, err)
	}
	if err := volume(dir).fill(99); err == nil || !strings.Contains(err.Error(), "want a VOLUME of at most 67108864 bytes") {
		t.Errorf("got %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("it has left %v, %v", files, err)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
)

func TestTheModulesOfABinaryAreListed(t *testing.T) {
	var out bytes.Buffer
	if err := write(&out, os.Args[0]); err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if std := doc.Components[0]; doc.Format != "CycloneDX" || std.Name != "std" || std.PURL != "pkg:golang/std@"+std.Version || std.Version == "" {
		t.Errorf("%s", out.String())
	}
	if err := write(&out, "main.go"); err == nil {
		t.Error("a text has a bill of materials")
	}
}

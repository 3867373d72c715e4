package kube

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/klog/v2"
)

func TestClientGoWritesNothing(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer func(was *os.File) { os.Stderr = was }(os.Stderr)
	os.Stderr = file
	silenceKlog()
	klog.Background().Error(errors.New("deadline"), "Unexpected error when reading response body")
	klog.FromContext(t.Context()).Info("a request")
	klog.Errorf("an error")
	klog.Flush()
	if said, err := os.ReadFile(file.Name()); err != nil || len(said) > 0 {
		t.Errorf("it writes %q, %v", said, err)
	}
}

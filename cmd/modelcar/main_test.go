package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// asProgram makes the test binary the program.
const asProgram = "MODELCAR_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	m.Run()
}

// files are contents by name.
type files map[string]string

var model = files{"model.json": `{"name":"m"}` + "\n", "heldout.json": strings.Repeat("0123456789", 100_000), "a/b/c": ""}

func (f files) write(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range f {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read returns all that is below dir.
func read(t *testing.T, dir string) files {
	t.Helper()
	got := files{}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, at)
		got[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return got
}

// store is a registry over HTTP. Its wrapper may answer a request itself, and then returns true.
type store struct {
	host string
	mine atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler) bool]
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{}
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.mine.Load(); f != nil && (*f)(w, r, h) {
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	s.host = strings.TrimPrefix(srv.URL, "http://")
	return s
}

func (s *store) wrap(f func(http.ResponseWriter, *http.Request, http.Handler) bool) { s.mine.Store(&f) }

// call runs the program's verb in this process.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	code = run(t.Context(), args, &out, &talk)
	return code, out.String(), talk.String()
}

// pushed pushes and returns the one line that push prints.
func pushed(t *testing.T, dir, ref string) string {
	t.Helper()
	code, out, talk := call(t, "push", dir, ref)
	if code != 0 || strings.Count(out, "\n") != 1 || talk != "" {
		t.Fatalf("push %s: %d %q %q", ref, code, out, talk)
	}
	return strings.TrimSpace(out)
}

// refused is a call that fails, says so in these words, and prints nothing else.
func refused(t *testing.T, words string, args ...string) { t.Helper(); fails(t, 1, words, args...) }

func fails(t *testing.T, want int, words string, args ...string) {
	t.Helper()
	code, out, talk := call(t, args...)
	if code != want || out != "" || !strings.HasPrefix(talk, "modelcar: ") || !strings.Contains(talk, words) {
		t.Errorf("%v: %d %q %q, want %d and %q", args, code, out, talk, want, words)
	}
}

func TestWhatIsPushedIsWhatIsPulled(t *testing.T) {
	s := newStore(t)
	ref := pushed(t, model.write(t), s.host+"/models/m:v1")
	if !strings.HasPrefix(ref, s.host+"/models/m@sha256:") {
		t.Errorf("pushed %s", ref)
	}
	for _, from := range []string{ref, s.host + "/models/m:v1", "oci://" + ref, "oci://" + s.host + "/models/m:v1"} {
		dest := filepath.Join(t.TempDir(), "mnt", "models")
		code, out, talk := call(t, "pull", from, dest)
		if code != 0 || out != ref+"\n" || talk != "" {
			t.Errorf("pull %s: %d %q %q", from, code, out, talk)
		}
		if got := read(t, dest); !maps.Equal(got, model) {
			t.Errorf("pull %s gave %d files", from, len(got))
		}
	}
}

func TestATagThatIsAnotherImagesLeavesThePushWithItsDigest(t *testing.T) {
	s := newStore(t)
	s.wrap(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, "/manifests/v1") {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	ref := pushed(t, model.write(t), s.host+"/mllab-mlops/m:v1")
	if code, out, talk := call(t, "pull", ref, t.TempDir()); code != 0 || out != ref+"\n" {
		t.Errorf("pull %s: %d %q %q", ref, code, out, talk)
	}
}

func TestTheSameFilesAreTheSameImageWhateverTheirTimesAndModes(t *testing.T) {
	s := newStore(t)
	one, two := model.write(t), model.write(t)
	if err := os.Chtimes(filepath.Join(two, "model.json"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(two, "model.json"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(two, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	a, b := pushed(t, one, s.host+"/car"), pushed(t, two, s.host+"/car")
	if a != b {
		t.Errorf("%s and %s", a, b)
	}
	other := maps.Clone(model)
	other["model.json"] += " "
	if c := pushed(t, other.write(t), s.host+"/car"); c == a {
		t.Error("other files are the same image")
	}
}

func TestAReferenceWithoutATagGetsTheFilesHash(t *testing.T) {
	s := newStore(t)
	ref := pushed(t, model.write(t), s.host+"/car")
	r, err := parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := remote.List(r.Context())
	if err != nil || len(tags) != 1 {
		t.Fatalf("tags %q, %v", tags, err)
	}
	img, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := img.Manifest()
	if err != nil || len(manifest.Layers) != 2 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	if want := manifest.Layers[1].Digest.Hex[:12]; tags[0] != want {
		t.Errorf("the tag is %s, the layer %s", tags[0], want)
	}

	// A digest is a promise about what is pushed.
	if again := pushed(t, model.write(t), ref); again != ref {
		t.Errorf("by its digest it is %s, not %s", again, ref)
	}
	refused(t, "push to a tag", "push", files{"x": "y"}.write(t), ref)
}

func TestTheImageCarriesThisProgramAndCopiesItselfOut(t *testing.T) {
	s := newStore(t)
	r, err := parse(pushed(t, model.write(t), s.host+"/car"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; !slices.Equal(c.Entrypoint, []string{"/modelcar", "copy"}) || c.User != "65532:65532" || config.OS != "linux" {
		t.Errorf("%+v", config)
	}
	// As containerd unpacks it.
	root := t.TempDir()
	var names []string
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		tr := tar.NewReader(rc)
		for h, err := tr.Next(); err == nil; h, err = tr.Next() {
			names = append(names, fmt.Sprintf("%s %o %d %d", h.Name, h.Mode, h.Uid, h.ModTime.Unix()))
			if h.Typeflag == tar.TypeDir {
				os.Mkdir(filepath.Join(root, h.Name), 0o755)
				continue
			}
			data, err := io.ReadAll(tr)
			if err == nil {
				err = os.WriteFile(filepath.Join(root, h.Name), data, fs.FileMode(h.Mode))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		rc.Close()
	}
	want := []string{"modelcar 755 0 0", "models/ 755 0 0", "models/a/ 755 0 0", "models/a/b/ 755 0 0", "models/a/b/c 644 0 0",
		"models/heldout.json 644 0 0", "models/model.json 644 0 0"}
	if !slices.Equal(names, want) {
		t.Errorf("it holds %q, want %q", names, want)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := read(t, filepath.Dir(self))[filepath.Base(self)], read(t, root)["modelcar"]; a != b {
		t.Errorf("the program has %d bytes, in the image %d", len(a), len(b))
	}

	dest := t.TempDir()
	for range 2 { // an init container may run again
		if err := copyFiles(filepath.Join(root, folder), dest); err != nil {
			t.Fatal(err)
		}
		if got := read(t, dest); !maps.Equal(got, model) {
			t.Errorf("copied %d files", len(got))
		}
	}
	refused(t, "copying /models to "+dest, "copy", dest) // this machine has none
}

func TestAModelThatIsNotThereIsSaid(t *testing.T) {
	s := newStore(t)
	ref := pushed(t, model.write(t), s.host+"/car:v1")
	dest := filepath.Join(t.TempDir(), "models")
	refused(t, "no model at "+s.host+"/other:v1: ", "pull", s.host+"/other:v1", dest)
	refused(t, "no model at oci://"+s.host+"/car:v2: ", "pull", "oci://"+s.host+"/car:v2", dest)
	refused(t, "no model at ", "pull", ref[:len(ref)-4]+"beef", dest)
	refused(t, "names no registry", "pull", "models/m:v1", dest)
	refused(t, "want HOST:PORT/NAME", "pull", s.host+"/UPPER:v1", dest)
	refused(t, "2 and 255", "pull", s.host+"/m:v1", dest) // a rule of the library
	if _, err := os.Stat(dest); err == nil {
		t.Error("a folder was made for nothing")
	}
	s.wrap(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		http.Error(w, "go away", http.StatusForbidden)
		return true
	})
	fails(t, tempFail, "403", "pull", ref, dest) // not a missing model
}

// Another try may mend what a registry did, and nothing else.
func TestARegistryThatFailsIsTrouble(t *testing.T) {
	srv := httptest.NewServer(nil)
	srv.Close()
	gone := strings.TrimPrefix(srv.URL, "http://")
	fails(t, tempFail, "connection refused", "pull", gone+"/car:v1", t.TempDir())
	fails(t, tempFail, "connection refused", "push", model.write(t), gone+"/car:v1")
	refused(t, "there are no files", "push", t.TempDir(), gone+"/car:v1")
}

func TestWhatIsNotAModelsFilesIsNotPushed(t *testing.T) {
	s := newStore(t)
	s.wrap(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		t.Errorf("%s %s", r.Method, r.URL)
		return false
	})
	dir := model.write(t)
	if err := os.Symlink("model.json", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	refused(t, "a/link must be a regular file or a folder", "push", dir, s.host+"/car")
	if err := copyFiles(dir, t.TempDir()); err == nil || !strings.Contains(err.Error(), "a/link") {
		t.Errorf("copied: %v", err)
	}
	refused(t, "there are no files", "push", t.TempDir(), s.host+"/car")
	refused(t, "no such file", "push", filepath.Join(dir, "absent"), s.host+"/car")
	refused(t, "names no registry", "push", model.write(t), "models/m")

	large := model.write(t)
	if err := os.Truncate(filepath.Join(large, "model.json"), maxSize); err != nil {
		t.Fatal(err)
	}
	refused(t, "at most 1024 MiB", "push", large, s.host+"/car")
}

// archive is a layer of just these headers; each file's text is its name.
func archive(t *testing.T, headers ...tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		text := h.Name
		if h.Typeflag != tar.TypeReg {
			text = ""
		}
		claimed := h.Size
		if h.Size == 0 {
			h.Size = int64(len(text))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, text); err != nil {
			t.Fatal(err)
		}
		if claimed > 0 {
			return static.NewLayer(b.Bytes(), types.OCIUncompressedLayer) // it breaks off here
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)
}

func TestAnImageOfSomebodyElseIsTakenOnlyIfItIsHarmless(t *testing.T) {
	s := newStore(t)
	plain := archive(t, tar.Header{Name: "etc/passwd"}, tar.Header{Name: "models/", Typeflag: tar.TypeDir}, tar.Header{Name: "models/x"})
	for name, c := range map[string]struct {
		second v1.Layer
		want   string // "" is taken
	}{
		"a later layer adds":       {archive(t, tar.Header{Name: "./models/y"}, tar.Header{Name: "/models/z/z"}), ""},
		"a link":                   {archive(t, tar.Header{Name: "models/y", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), "/models/y must be a regular file"},
		"a hard link":              {archive(t, tar.Header{Name: "models/y", Typeflag: tar.TypeLink, Linkname: "etc/passwd"}), "/models/y must be a regular file"},
		"a device":                 {archive(t, tar.Header{Name: "models/y", Typeflag: tar.TypeChar}), "/models/y must be a regular file"},
		"the folder is a link":     {archive(t, tar.Header{Name: "models", Typeflag: tar.TypeSymlink, Linkname: "etc"}), "/models must be a regular file"},
		"a link elsewhere":         {archive(t, tar.Header{Name: "etc/mtab", Typeflag: tar.TypeSymlink, Linkname: "/proc/mounts"}), ""},
		"a way out":                {archive(t, tar.Header{Name: "models/../../y"}), "must not leave the image"},
		"a way out from elsewhere": {archive(t, tar.Header{Name: "../models/y"}), "must not leave the image"},
		"an absolute way out":      {archive(t, tar.Header{Name: "/models/../../../y"}), "must not leave the image"},
		"a file is deleted":        {archive(t, tar.Header{Name: "models/.wh.x"}), "a layer deletes /models/x"},
		"all are deleted":          {archive(t, tar.Header{Name: ".wh.models"}), "a layer deletes /models"},
		"our own name":             {archive(t, tar.Header{Name: "models/.modelcar/x"}), "the name .modelcar is reserved"},
		"larger than its type":     {archive(t, tar.Header{Name: "models/x"}, tar.Header{Name: "models/y", Size: math.MaxInt64}), "at most 1024 MiB"},
		"too large":                {archive(t, tar.Header{Name: "models/y", Size: maxSize}), "at most 1024 MiB"},
		"broken off":               {archive(t, tar.Header{Name: "models/y", Size: 100}), "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := newImage(plain, c.second)
			if err != nil {
				t.Fatal(err)
			}
			ref := s.host + "/car:" + strings.ReplaceAll(name, " ", "-")
			r, err := parse(ref)
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.Write(r, img); err != nil {
				t.Fatal(err)
			}
			above := t.TempDir()
			dest := filepath.Join(above, "in", "models")
			if c.want == "" {
				if code, _, talk := call(t, "pull", ref, dest); code != 0 || read(t, dest)["x"] != "models/x" {
					t.Errorf("%d %s", code, talk)
				}
				return
			}
			refused(t, c.want, "pull", ref, dest)
			if got := read(t, above); len(got) > 0 {
				t.Errorf("it left %v", got)
			}
		})
	}
	t.Run("no files", func(t *testing.T) {
		empty := archive(t, tar.Header{Name: "etc/passwd"})
		img, err := newImage(empty, archive(t, tar.Header{Name: "etc/group"}))
		if err != nil {
			t.Fatal(err)
		}
		r, err := parse(s.host + "/none:v1")
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(r, img); err != nil {
			t.Fatal(err)
		}
		refused(t, "no files under /models", "pull", s.host+"/none:v1", t.TempDir())
	})
}

func TestAPullFollowsNoLinkOfItsDestination(t *testing.T) {
	s := newStore(t)
	ref := pushed(t, model.write(t), s.host+"/car")
	outside, dest := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dest, "a")); err != nil {
		t.Fatal(err)
	}
	refused(t, "path escapes", "pull", ref, dest)
	if got := read(t, outside); len(got) > 0 {
		t.Errorf("it wrote %v elsewhere", got)
	}
}

// isModel tells the layer with the files from the program's.
func isModel(layer []byte) bool { return bytes.HasPrefix(layer, []byte(folder+"/")) }

func TestATamperedImageIsRefusedAndChangesNothing(t *testing.T) {
	s := newStore(t)
	ref := pushed(t, model.write(t), s.host+"/car:v1")
	before := files{"model.json": "the one before"}
	for name, tamper := range map[string]func([]byte) []byte{
		"a changed file": func(b []byte) []byte { return bytes.Replace(b, []byte(`{"name":"m"}`), []byte(`{"name":"x"}`), 1) },
		"one byte less":  func(b []byte) []byte { return b[:len(b)-1] },
		// After the end of the archive, which no reader of archives looks at.
		"another end": func(b []byte) []byte { return append(b[:len(b)-1], 1) },
	} {
		t.Run(name, func(t *testing.T) {
			tampered := false
			s.wrap(func(w http.ResponseWriter, r *http.Request, h http.Handler) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				body := rec.Body.Bytes()
				if isModel(body) {
					body, tampered = tamper(body), true
				}
				_, _ = w.Write(body)
				return true
			})
			for _, from := range []string{ref, s.host + "/car:v1"} {
				dest := before.write(t)
				code := tempFail
				if name == "another end" { // the reader of the archive sees it first
					code = 1
				}
				fails(t, code, "fetching "+from, "pull", from, dest)
				if got := read(t, dest); !maps.Equal(got, before) {
					t.Errorf("%s changed the destination: %d files", from, len(got))
				}
			}
			if !tampered {
				t.Error("nothing was tampered with")
			}
		})
	}
	s.wrap(func(http.ResponseWriter, *http.Request, http.Handler) bool { return false })
	dest := before.write(t)
	if code, _, talk := call(t, "pull", ref, dest); code != 0 || !maps.Equal(read(t, dest), model) {
		t.Errorf("as it was: %d %s", code, talk)
	}
}

// upload reports whether the request brings a layer.
func upload(r *http.Request) bool { return r.Method == http.MethodPatch }

func TestAPushThatTheRegistryBreaksOffSucceedsAgain(t *testing.T) {
	s := newStore(t)
	s.wrap(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !upload(r) {
			return false
		}
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		w.WriteHeader(http.StatusInsufficientStorage)
		return true
	})
	dir := model.write(t)
	fails(t, tempFail, "507", "push", dir, s.host+"/car:v1")
	s.wrap(func(http.ResponseWriter, *http.Request, http.Handler) bool { return false })
	refused(t, "no model at", "pull", s.host+"/car:v1", t.TempDir())
	dest := t.TempDir()
	if code, _, talk := call(t, "pull", pushed(t, dir, s.host+"/car:v1"), dest); code != 0 || !maps.Equal(read(t, dest), model) {
		t.Errorf("%d %s", code, talk)
	}
}

// process starts the program as a process of its own.
func process(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var talk bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), asProgram+"=1"), &talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &talk
}

func TestAPushThatIsKilledInTheMiddleSucceedsAgain(t *testing.T) {
	for _, signal := range []os.Signal{os.Kill, os.Interrupt} {
		s := newStore(t)
		half, answer := make(chan struct{}, 10), make(chan struct{})
		release := sync.OnceFunc(func() { close(answer) })
		defer release()
		s.wrap(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !upload(r) {
				return false
			}
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			half <- struct{}{}
			<-answer
			return true
		})
		dir := model.write(t)
		cmd, _ := process(t, "push", dir, s.host+"/car:v1")
		<-half
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("%v: it went well", signal)
		}
		release()
		s.wrap(func(http.ResponseWriter, *http.Request, http.Handler) bool { return false })
		refused(t, "no model at", "pull", s.host+"/car:v1", t.TempDir())
		dest := t.TempDir()
		if code, _, talk := call(t, "pull", pushed(t, dir, s.host+"/car:v1"), dest); code != 0 || !maps.Equal(read(t, dest), model) {
			t.Errorf("%v: %d %s", signal, code, talk)
		}
	}
}

func TestAPullThatIsKilledInTheMiddleChangesNothingAndSucceedsAgain(t *testing.T) {
	s := newStore(t)
	ref := pushed(t, model.write(t), s.host+"/car")
	half, answer := make(chan struct{}, 10), make(chan struct{})
	release := sync.OnceFunc(func() { close(answer) })
	defer release()
	s.wrap(func(w http.ResponseWriter, r *http.Request, h http.Handler) bool {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if !isModel(body) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body[:len(body)-2000])
		_ = http.NewResponseController(w).Flush()
		half <- struct{}{}
		<-answer
		return true
	})
	dest := files{"model.json": "the one before"}.write(t)
	cmd, _ := process(t, "pull", ref, dest)
	<-half
	// Once there is a file of its own it is in the middle.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); len(read(t, filepath.Join(dest, staging))) == 0; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it wrote nothing")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	release()
	if got := read(t, dest)["model.json"]; got != "the one before" {
		t.Errorf("killed, it left %q", got)
	}
	s.wrap(func(http.ResponseWriter, *http.Request, http.Handler) bool { return false })
	if code, _, talk := call(t, "pull", ref, dest); code != 0 || !maps.Equal(read(t, dest), model) {
		t.Errorf("%d %s, %d files", code, talk, len(read(t, dest)))
	}
}

func TestWrongUseIsExplained(t *testing.T) {
	for _, args := range [][]string{nil, {"push"}, {"push", "a"}, {"push", "a", "b", "c"}, {"pull", "a"}, {"copy", "a", "b"}, {"help"}, {"--help"}} {
		if code, out, talk := call(t, args...); code != 2 || out != "" || !strings.Contains(talk, "push DIR REF") {
			t.Errorf("%q: %d %q %q", args, code, out, talk)
		}
	}
	cmd, talk := process(t, "push")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(talk.String(), "want:") {
		t.Errorf("as a process: %v %s", err, talk)
	}
}

package images

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"mllab.local/internal/fault"
	"mllab.local/internal/oci"
	"mllab.local/internal/report"
)

// failing is a real registry on 127.0.0.1 that fails on purpose.
type failing struct {
	http.Handler
	host string
	bad  []v1.Hash // the layers of istio-pilot, of which the last one fails
	last []byte    // its content

	mu     sync.Mutex
	fail   func(w http.ResponseWriter, r *http.Request, n int) bool // answers the n-th request, or returns false
	counts map[string]int                                           // of GETs by path
	ranges []string                                                 // headers of requests for a part
}

func (f *failing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if r.Method == http.MethodGet {
		f.counts[r.URL.Path]++
	}
	if part := r.Header.Get("Range"); part != "" {
		f.ranges = append(f.ranges, part)
	}
	fail, n := f.fail, f.counts[r.URL.Path]
	f.mu.Unlock()
	if r.Method == http.MethodGet && fail != nil && fail(w, r, n) {
		return
	}
	f.Handler.ServeHTTP(w, r)
}

// asked returns the number of GETs of paths that contain text.
func (f *failing) asked(text string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, count := range f.counts {
		if strings.Contains(path, text) {
			n += count
		}
	}
	return n
}

func (f *failing) failWith(fail func(w http.ResponseWriter, r *http.Request, n int) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.counts = fail, map[string]int{}
}

// newFailing serves the images of a core lab. That of istio-pilot has a megabyte in each layer.
func newFailing(t *testing.T) *failing {
	t.Helper()
	f := &failing{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), counts: map[string]int{}}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	f.host = strings.TrimPrefix(srv.URL, "http://")
	list, err := Select([]string{"istio-pilot"})
	if err != nil {
		t.Fatal(err)
	}
	var layers []v1.Layer
	for i := range 3 {
		data := make([]byte, 1<<20)
		rand.Read(data)
		l, err := newLayer(t.TempDir(), tree{fmt.Sprint("/", i): {mode: 0o644, data: data}}.write)
		if err != nil {
			t.Fatal(err)
		}
		digest, _ := l.Digest()
		r, err := l.Compressed()
		if err == nil {
			f.last, err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		layers, f.bad = append(layers, l), append(f.bad, digest)
	}
	pilot, err := oci.Image(layers, v1.Config{}, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range list {
		img := pilot
		if c.Name != "istio-pilot" {
			img = small(t, t.TempDir(), fmt.Sprint(i))
		}
		ref, err := (&registrySource{mirror: f.host}).reference(c)
		if err == nil {
			err = remote.Write(ref, img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// half sends half of the last layer, and then does as it is told with the connection.
func (f *failing) half(w http.ResponseWriter, then func(*net.TCPConn)) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(f.last), f.last[:len(f.last)/2])
	then(conn.(*net.TCPConn))
}

// hold keeps a connection until the client hangs up.
func hold(c *net.TCPConn) { io.Copy(io.Discard, c) }

func reset(c *net.TCPConn) { c.SetLinger(0) }

// answer is how a failing registry answers.
type answer func(*failing, http.ResponseWriter, *http.Request)

// told is a Reporter that keeps what steps say.
type told struct {
	report.Reporter
	mu   sync.Mutex
	text strings.Builder
}

func (r *told) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *told) Note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, format+"\n", args...)
}

func (r *told) Step(name string) report.Task { return &toldStep{r.Reporter.Step(name), r} }

type toldStep struct {
	report.Task
	*told
}

func (s *toldStep) Update(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(&s.text, reason)
}

func (s *toldStep) Fail(err error) { s.Update(err.Error()) }

func TestARegistryThatFailsInTheMiddle(t *testing.T) {
	const pilot = "pulling docker.io/istio/pilot:" + istioVersion + " from HOST: "
	const notManifest = "HOST answers with something else in place of an image's manifest"
	status := func(code int) answer {
		return func(_ *failing, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	page := func(_ *failing, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, "<html>Log in to this network</html>")
	}
	redirect := func(_ *failing, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}
	manifest := func(text string) answer {
		return func(_ *failing, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			io.WriteString(w, text)
		}
	}
	retryAfter := func(value string) answer {
		return func(_ *failing, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}
	broken := func(f *failing, w http.ResponseWriter, _ *http.Request) { f.half(w, reset) }
	token := func(service string) answer {
		return func(_ *failing, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://localhost:`+service[strings.LastIndex(service, ":")+1:]+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	t.Cleanup(busy.Close)
	busyHost := strings.Replace(busy.URL, "http://127.0.0.1", "localhost", 1)

	for name, c := range map[string]struct {
		manifest, base bool // what fails: the manifest, or the API's base; else the last layer
		fail           answer
		times          int           // how often it fails; 0 means always
		stall          time.Duration // of the client
		err, hint      string        // empty: the pull passes
		asked          int           // requests of what fails; 0 means any number
		told           string        // what the progress says
	}{
		"429 with Retry-After, once":   {fail: retryAfter("1"), times: 1, asked: 2, told: "HOST answers 429 Too Many Requests: try 2 of 6 in 1s"},
		"429 for ever":                 {fail: status(429), err: pilot + "HOST answers 429 Too Many Requests (tried 6 times)", hint: "docker login", asked: 6},
		"429 with a long Retry-After":  {fail: retryAfter("3600"), err: pilot + "HOST answers 429 Too Many Requests and asks to wait 1h0m0s", hint: "docker login", asked: 1},
		"403 for a layer":              {fail: status(403), err: pilot + "HOST refuses this pull (403 Forbidden)", hint: "docker login", asked: 1},
		"401 for a manifest":           {manifest: true, fail: status(401), err: pilot + "HOST requires a login (401 Unauthorized)", hint: "docker login", asked: 1},
		"404 for a manifest":           {manifest: true, fail: status(404), err: pilot + "HOST does not have this image (404 Not Found)", hint: "--image-source source", asked: 1},
		"503 twice":                    {fail: status(503), times: 2, asked: 3, told: "HOST answers 503 Service Unavailable: try 3 of 6 in 2ms"},
		"500 for ever, for a manifest": {manifest: true, fail: status(500), err: pilot + "HOST answers 500 Internal Server Error (tried 6 times)", hint: "try again later", asked: 6},
		"a reset in the middle, once":  {fail: broken, times: 1, asked: 2, told: "the connection to HOST broke ("},
		"resets for ever":              {fail: broken, err: "(tried 6 times)", hint: "what was pulled stays in the cache", asked: 6},
		"resets before an answer, for ever": {manifest: true, err: pilot + "the connection to HOST broke (", hint: "try again", fail: func(_ *failing, w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			reset(conn.(*net.TCPConn))
			conn.Close()
		}},
		"a stalled body, once": {times: 1, stall: 500 * time.Millisecond, told: "HOST sent nothing for 500ms: try 2 of 6", fail: func(f *failing, w http.ResponseWriter, _ *http.Request) {
			f.half(w, hold)
		}},
		"a stalled manifest, for ever": {manifest: true, stall: 100 * time.Millisecond, err: "HOST sent nothing for 100ms (tried 6 times)", hint: "what was pulled stays in the cache", fail: func(_ *failing, _ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}},
		"a login page for a manifest": {manifest: true, fail: page, err: pilot + "HOST answers with a web page (text/html) in place of an image", hint: "log in there", asked: 1},
		"a login page for a layer":    {fail: page, err: pilot + "HOST answers with a web page (text/html) in place of an image", hint: "log in there", asked: 1},
		"a manifest of nothing":       {manifest: true, fail: manifest(`{"login":"please"}`), err: pilot + notManifest, hint: "a proxy or mirror changes what it passes on", asked: 1},
		"an empty manifest":           {manifest: true, fail: manifest(""), err: pilot + notManifest, hint: "a proxy or mirror changes what it passes on", asked: 1},
		"a page that does not say so": {manifest: true, fail: manifest("<html>"), err: pilot + notManifest, hint: "a proxy or mirror changes what it passes on", asked: 1},
		"redirects for ever":          {fail: redirect, err: pilot + "HOST redirects again and again", hint: "log in there", asked: 11},
		"redirects, for a manifest":   {manifest: true, fail: redirect, err: pilot + "HOST redirects again and again", hint: "log in there", asked: 11},
		"another layer of this size": {err: `got "sha256:`, hint: "a proxy or mirror changes what it passes on", asked: 1, fail: func(f *failing, w http.ResponseWriter, _ *http.Request) {
			w.Write(make([]byte, len(f.last)))
		}},
		"a layer of another size": {err: "does not match expected size", hint: "a proxy or mirror changes what it passes on", asked: 1, fail: func(_ *failing, w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "short")
		}},
		"no token service":          {base: true, fail: token("127.0.0.1:1"), err: "connection refused", hint: "check the network"},
		"a token service with 503s": {base: true, fail: token(busyHost), err: "the token service " + busyHost + " answers 503 Service Unavailable (tried 6 times)", hint: "try again later"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFailing(t)
			target := "/v2/istio/pilot/blobs/" + f.bad[2].String()
			switch {
			case c.manifest:
				target = "/v2/istio/pilot/manifests/" + istioVersion
			case c.base:
				target = "/v2/"
			}
			others := []chan struct{}{make(chan struct{}), make(chan struct{})} // the other layers are sent
			f.failWith(func(w http.ResponseWriter, r *http.Request, n int) bool {
				if i := slices.IndexFunc(f.bad[:2], func(h v1.Hash) bool { return strings.HasSuffix(r.URL.Path, h.String()) }); i >= 0 {
					f.Handler.ServeHTTP(w, r)
					if n == 1 {
						close(others[i])
					}
					return true
				}
				if r.URL.Path != target || c.times > 0 && n > c.times {
					return false
				}
				if !c.manifest && !c.base {
					<-others[0]
					<-others[1]
				}
				c.fail(f, w, r)
				return true
			})
			said := &told{Reporter: report.Discard()}
			o := Options{Cache: t.TempDir(), Mode: "registry", Mirror: f.host, Components: []string{"istio-pilot"},
				Report: said, patience: patience{first: time.Millisecond, stall: c.stall}}
			_, err := Resolve(t.Context(), o)
			here := func(s string) string { return strings.ReplaceAll(s, "HOST", f.host) }
			if n := f.asked(target); c.asked > 0 && n != c.asked {
				t.Errorf("it was asked %d times, want %d", n, c.asked)
			}
			if !strings.Contains(said.String(), here(c.told)) {
				t.Errorf("it said %s\nwant %s", said.String(), here(c.told))
			}
			if c.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), here(c.err)) || !strings.HasPrefix(err.Error(), "pulling ") || !strings.Contains(fault.Hint(err), c.hint) || fault.Code(err) != 1 {
				t.Fatalf("got code %d, %v (hint %q)\nwant %s (hint %q)", fault.Code(err), err, fault.Hint(err), here(c.err), c.hint)
			}
			if n := strings.Count(said.String(), "context canceled"); n > 0 {
				t.Errorf("%d pulls that the failure ended are told as failures of their own:\n%s", n, said.String())
			}

			// A second try, with the fault gone, takes the rest.
			pulled := map[string]bool{}
			blobs, _ := filepath.Glob(filepath.Join(o.Cache, "images/blobs/sha256/*"))
			for _, b := range blobs {
				pulled[filepath.Base(b)] = true
			}
			if !c.manifest && !c.base && (!pulled[f.bad[0].Hex] || !pulled[f.bad[1].Hex] || pulled[f.bad[2].Hex]) {
				t.Errorf("the cache must have the layers that came and not the other, got %v", slices.Collect(maps.Keys(pulled)))
			}
			f.failWith(nil)
			o.Report, o.patience.stall = report.Discard(), 0 // a busy machine is no stall
			if _, err := Resolve(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			for blob := range pulled {
				if n := f.asked(blob); n > 0 {
					t.Errorf("the cache had %s, and it was asked for %d times more", blob, n)
				}
			}
			if n := f.asked(f.bad[2].Hex); n != 1 {
				t.Errorf("the layer that failed was asked for %d times, want once", n)
			}
		})
	}
}

func TestABrokenLayerIsContinuedWhereItBroke(t *testing.T) {
	for name, parts := range map[string]bool{"in parts": true, "from a registry that sends no parts": false} {
		t.Run(name, func(t *testing.T) {
			f := newFailing(t)
			f.failWith(func(w http.ResponseWriter, r *http.Request, n int) bool {
				if !strings.HasSuffix(r.URL.Path, f.bad[2].String()) || n > 2 {
					return false
				}
				if n == 1 {
					conn, _, _ := w.(http.Hijacker).Hijack()
					defer conn.Close()
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(f.last))
					conn.Write(f.last[:1000])
					return true
				}
				if !parts {
					w.Write(f.last)
				}
				return !parts
			})
			o := Options{Cache: t.TempDir(), Mode: "registry", Mirror: f.host, Components: []string{"istio-pilot"}, Report: report.Discard(), patience: patience{first: time.Millisecond}}
			if _, err := Resolve(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(f.ranges, []string{fmt.Sprintf("bytes=1000-%d", len(f.last)-1)}) || f.asked(f.bad[2].Hex) != 2 {
				t.Errorf("asked %d times, for the parts %q", f.asked(f.bad[2].Hex), f.ranges)
			}
		})
	}
}

func TestWhatAKilledPullLeftOfALayerIsRemoved(t *testing.T) {
	f := newFailing(t)
	o := Options{Cache: t.TempDir(), Mode: "registry", Mirror: f.host, Components: []string{"istio-pilot"}, Report: report.Discard()}
	c, err := openCache(o.Cache)
	if err != nil {
		t.Fatal(err)
	}
	part := c.blob(f.bad[2]) + "1234567890"
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part, f.last[:1000], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(part); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat(c.blob(f.bad[2])); err != nil {
		t.Error(err)
	}
}

func TestAPullThatWaitsEndsWithTheUsersInterrupt(t *testing.T) {
	for name, fail := range map[string]answer{
		"before the next try": func(_ *failing, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"for an answer":       func(_ *failing, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"for a body":          func(f *failing, w http.ResponseWriter, _ *http.Request) { f.half(w, hold) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFailing(t)
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			f.failWith(func(w http.ResponseWriter, r *http.Request, _ int) bool {
				if !strings.HasSuffix(r.URL.Path, f.bad[2].String()) {
					return false
				}
				time.AfterFunc(100*time.Millisecond, interrupt)
				fail(f, w, r)
				return true
			})
			began := time.Now()
			_, err := Resolve(ctx, Options{Cache: t.TempDir(), Mode: "registry", Mirror: f.host, Components: []string{"istio-pilot"}, Report: report.Discard(), patience: patience{first: time.Hour}})
			if !errors.Is(err, context.Canceled) || fault.Code(err) != 130 || time.Since(began) > 30*time.Second {
				t.Errorf("got code %d after %s, %v", fault.Code(err), time.Since(began), err)
			}
		})
	}
}

func TestARegistryOfAnotherScheme(t *testing.T) {
	// refused returns the error of a pull from a registry with this certificate; nil is one that no authority knows.
	refused := func(certificate *x509.Certificate) error {
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of the refused handshakes
		if certificate != nil {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			certificate.SerialNumber = big.NewInt(1)
			signed, err := x509.CreateCertificate(rand.Reader, certificate, certificate, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{signed}, PrivateKey: key}}}
		}
		srv.StartTLS()
		defer srv.Close()
		_, err := (&registrySource{mirror: srv.Listener.Addr().String()}).pull(t.Context(), table[0], func(string) {})
		return err
	}
	here, now := []net.IP{net.IPv4(127, 0, 0, 1)}, time.Now()
	var mismatch error = &url.Error{Op: "Get", URL: "https://registry.example/v2/", Err: http.ErrSchemeMismatch}
	for _, c := range []struct {
		err        error
		what, hint string
	}{
		{refused(nil), "certificate signed by unknown authority", "add the authority of the registry's certificate"},
		{refused(&x509.Certificate{IPAddresses: here, NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}), "has expired", "check this machine's clock and the network"},
		{refused(&x509.Certificate{DNSNames: []string{"other.example"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}), "cannot validate certificate for 127.0.0.1", "check this machine's clock and the network"},
		{mismatch, "server gave HTTP response to HTTPS client", "by a loopback or private address, or as localhost:PORT"},
	} {
		if err := explain(c.err); err == nil || !strings.Contains(err.Error(), c.what) || !strings.Contains(fault.Hint(err), c.hint) {
			t.Errorf("got %v (hint %q), want %s (hint %q)", err, fault.Hint(err), c.what, c.hint)
		}
	}
}

func TestALoginPageIsNoReachableRegistry(t *testing.T) {
	f := newFailing(t)
	list, err := Select(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &registrySource{mirror: f.host}
	if err := r.reachable(t.Context(), list[0]); err != nil {
		t.Errorf("the registry is not reachable: %v", err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Length", "30")
		w.Header().Set("Docker-Content-Digest", f.bad[0].String())
	}))
	defer srv.Close()
	r.mirror = strings.TrimPrefix(srv.URL, "http://")
	if err := r.reachable(t.Context(), list[0]); err == nil || !strings.Contains(err.Error(), "web page") {
		t.Errorf("got %v", err)
	}
}

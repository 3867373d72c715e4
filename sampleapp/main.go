// Command sampleapp is the lab's sample model server. Every answer says who gave it: the body of GET / is TARGET, and
// headers name the target, the revision and the pod, so that a scenario can count who answered.
//
// Environment (a bad value ends it with exit code 2):
//
//	TARGET           who it says it is (default "world")
//	PORT             where it listens (default 8080; 0 picks a free port, which the log names)
//	ADMIN_PORT       where it listens for /faults (0 picks a free port, which the log names; default: nowhere)
//	FAIL_PERCENT     how many requests in a hundred get a 500, at random (0 to 100, fractions allowed; default 0)
//	CONVERT_PERCENT  how many answers of 200 in a hundred say X-Mllab-Converted: true, at random, the others false: a
//	                 business outcome for A/B tests (0 to 100, fractions allowed; default: the header is not sent)
//	DRIFT_PERCENT    how many inputs in a hundred get a prediction that is 1 more than the other versions', always the
//	                 same inputs; with a trained model the next class (0 to 100, fractions allowed; default 0)
//	CAPTURE_PERCENT  how many requests in a hundred are captured: a line of the log has the input and the output, as the
//	                 type Captured of package api says. A request's ID decides, so all versions and copies capture the
//	                 same ones; one without an ID is captured at random (0 to 100, fractions allowed; default 0)
//	DELAY            how long each answer waits (Go duration; default 0s)
//	DRAIN            how long new requests are still served after SIGTERM (Go duration; default 5s)
//	SEEN_KEEP        how many requests /seen remembers (default 20000)
//	MODEL_DIR        a folder with a trained model, model.json (see the type trained), which is then the model (default:
//	                 none, and a formula is the model)
//	MODEL_NAME       the trained model's name in the serving protocols (default: the one in its file)
//	MAX_BODY         the largest model input in bytes (default 2097152)
//	VOLUME           a folder whose filesystem /metrics has the size and the free space of, under the names that
//	                 node_exporter gives them (default: none)
//	K_REVISION       the revision it names (Knative sets it)
//	POD_NAME         the pod it names (default: the host name, which in a pod is the pod's name)
//	RELAY            the http URL of another server: this one is then no model but a client of that one (default: none)
//
// Paths: GET / and POST / are the model; /healthz, /readyz, /metrics and /seen are about it. /seen lists the requests
// to the model: their IDs, and for each a prediction or "", and how many were open when it came.
//
// With a trained model every answer has the header X-Mllab-Model, the SHA-256 of its file, and there are also the paths
// of two serving protocols, KServe's v1 under /v1/models/NAME and the Open Inference Protocol under /v2.
//
// A relay answers /healthz and /readyz itself and passes every other request on once, as it came, to the host that
// RELAY names. The answer comes back with one more header, X-Mllab-Relay, the relay's pod: who answered is what the
// other server says. The relay's own 502 names nobody.
//
// GET /faults on ADMIN_PORT says which faults are on, and PUT /faults changes those it names:
//
//	{"ready":true,"hang":false,"failPercent":0,"delay":"0s","fillPercent":0}
//
// Without ready, /readyz answers 503. With hang, every path of PORT, /healthz too, blocks until its client leaves.
// failPercent and delay start as FAIL_PERCENT and DELAY, and are for the model only. fillPercent is how full a file makes
// VOLUME, which may have 64 MiB; 0 removes the file.
//
// Exit codes: 0 after SIGTERM or SIGINT with every request answered, 1 when it could not listen or requests were cut
// off, 2 for a bad value.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// stopTimeout bounds how long started requests may take after the drain. With the default DRAIN it stays below
// Kubernetes' grace period of 30 s, after which the kernel ends the process.
const stopTimeout = 20 * time.Second

func main() { os.Exit(run(os.LookupEnv, os.Stdout, os.Stderr)) }

// run is the whole life of the process; it returns the exit code.
func run(env func(string) (string, bool), stdout, stderr io.Writer) int {
	c, err := readConfig(env, os.Hostname)
	if err != nil {
		fmt.Fprintf(stderr, "sampleapp: %v\n", err)
		return 2
	}
	// The handler is installed before the port is open, and by us: process 1 of a container has no default action for
	// SIGTERM, so nobody else would end it.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewJSONHandler(stdout, nil))
	if err := serve(ctx, stop, c, log); err != nil {
		log.Error("stopped", "error", err.Error())
		return 1
	}
	log.Info("stopped")
	return 0
}

// serve answers requests until ctx ends, drains, and returns when every request is answered; release is called when
// the end begins, so that a second signal ends the process at once.
func serve(ctx context.Context, release func(), c config, log *slog.Logger) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(c.port))
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	app := newApp(c, log, rand.Float64)
	// No IdleTimeout, and no ReadHeaderTimeout, which also ends a connection that never had a request: a proxy that keeps
	// a connection longer than we do may send a request just as we close it, and that request would be lost.
	srv := &http.Server{Handler: app.handler()}
	says := log.With("target", c.target, "revision", c.revision, "pod", c.pod)
	if c.trained != nil {
		says = says.With("model", c.trained.digest)
	}
	says.Info("listening", "address", l.Addr().String())
	served := make(chan error, 2)
	if c.adminPort != unset {
		l, err := net.Listen("tcp", ":"+strconv.Itoa(c.adminPort))
		if err != nil {
			return fmt.Errorf("listening for ADMIN_PORT: %w", err)
		}
		admin := &http.Server{Handler: app.admin(), ReadHeaderTimeout: 10 * time.Second}
		defer admin.Close() // it is there during the drain, and holds up no end
		log.Info("admin listening", "address", l.Addr().String())
		go func() { served <- admin.Serve(l) }()
	}
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	release()

	log.Info("draining", "for", c.drain.String())
	app.draining.Store(true)
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-time.After(c.drain):
	}
	end, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		return errors.Join(fmt.Errorf("waiting %s for the last requests: %w", stopTimeout, err), srv.Close())
	}
	return nil
}

// Command gitserver is the lab's Git server: one repository, /lab.git, over HTTP. git http-backend serves the protocol.
// This program checks the token, limits and records pushes, and notifies Flux.
//
//	gitserver [flags]    serves the repository
//	gitserver own DIR    creates DIR, and makes the server's user its owner
//
// It listens on two addresses. Inside the cluster everyone may read, and a push needs the token. From outside, through
// the lab's gateway, every request needs the token. After a push it asks Flux to fetch the repository at once.
//
// git runs this program as its hooks, under their names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// serverID is the user and group of the image (see bootstrap/images/table.go).
const serverID = 65532

// drainTime is how long requests in progress may take when the server shuts down.
const drainTime = 20 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if hook, called := hooks[filepath.Base(os.Args[0])]; called {
		if err := hook(ctx, os.Args[1:], os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(ctx, log, os.Args[1:]); err != nil {
		log.Error(err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, args []string) error {
	if len(args) == 2 && args[0] == "own" {
		return own(args[1])
	}
	flags := flag.NewFlagSet("gitserver", flag.ContinueOnError)
	data := flags.String("data", "/data", "folder of the repository")
	token := flags.String("token", "/token", "folder with the files username and password")
	inside := flags.String("inside", ":8080", "address where everyone may read")
	outside := flags.String("outside", ":8081", "address where everything needs the token")
	url := flags.String("url", "", "URL of the repository in the cluster, as Flux's GitRepositories name it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected arguments %q", flags.Args())
	}
	repo, err := openRepo(ctx, *data)
	if err != nil {
		return err
	}
	defer repo.close()
	flux, err := newFlux(*url, log)
	if err != nil {
		return err
	}
	go flux.run(ctx)
	// The previous server may have been killed before it could ask.
	flux.ask()
	s := &server{repo: repo, token: *token, pushed: flux.ask, log: log}
	return serve(ctx, log, map[string]http.Handler{*inside: s.handler(false), *outside: s.handler(true)})
}

// own makes the server's user the owner of a folder that the kubelet created for root.
func own(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.Chown(dir, serverID, serverID)
}

// serve listens until ctx ends, and then lets requests in progress finish.
func serve(ctx context.Context, log *slog.Logger, handlers map[string]http.Handler) error {
	ended := make(chan error, len(handlers))
	var servers []*http.Server
	for addr, h := range handlers {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
		servers = append(servers, s)
		go func() { ended <- s.Serve(l) }()
		log.Info("listening", "address", l.Addr().String())
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.Shutdown(drain))
	}
	return errors.Join(errs...)
}

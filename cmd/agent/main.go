// Command agent does what a cloud provider and a company's registry do outside a lab.
//
//	agent addresses              gives every Service of type LoadBalancer an address, and routes hosts to it
//	agent front LISTEN REGISTRY  serves the registry at the URL REGISTRY on the address LISTEN, and refuses to replace a run's tags
//
// It logs each action as one line of JSON. Exit codes: 0 after a signal, 1 for a failure, 2 for wrong use.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	args := os.Args[1:]
	var err error
	switch {
	case len(args) == 1 && args[0] == "addresses":
		err = addresses(ctx)
	case len(args) == 3 && args[0] == "front":
		err = front(ctx, args[1], args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: agent addresses | agent front LISTEN REGISTRY")
		os.Exit(2)
	}
	if err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

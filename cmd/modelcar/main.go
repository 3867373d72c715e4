// Command modelcar packs a model's files into a container image, and extracts them again.
//
//	modelcar push DIR REF     builds an image of DIR's files and pushes it
//	modelcar copy [DEST]      copies the files of its own image to DEST (default /mnt/models)
//	modelcar pull REF DEST    fetches the image and writes its files to DEST
//
// The files are under /models in the image. The image also has this program as its entrypoint: as an init container it
// copies the files to a volume that it shares with the server. modelcar accepts only regular files and folders, at most
// 1 GiB.
//
// The same files always give the same image digest. If REF has neither a tag nor a digest, push uses the first 12 digits of
// the SHA-256 of the layer with the files as the tag. REF may begin with oci://, as KServe writes it, and must name the
// registry. modelcar uses no credentials, and plain HTTP if the registry has no TLS: it is the lab's own.
//
// push and pull print the image by its digest, REPOSITORY@sha256:…, and nothing else to stdout.
//
// Exit codes: 0; 1 for a failure; 2 for wrong use; 75 for a registry that failed or could not be reached, so that a retry
// may succeed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

var errUsage = errors.New("want: modelcar push DIR REF, modelcar copy [DEST], or modelcar pull REF DEST")

// tempFail is EX_TEMPFAIL of sysexits.h.
const tempFail = 75

// registryError is a failure of the registry or of the way to it.
type registryError struct{ error }

func (t registryError) Unwrap() error { return t.error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out, err := runVerb(ctx, args)
	switch {
	case err == nil:
		fmt.Fprint(stdout, out)
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, "modelcar:", err)
		return 2
	}
	fmt.Fprintln(stderr, "modelcar:", err)
	if errors.As(err, new(registryError)) {
		return tempFail
	}
	return 1
}

func runVerb(ctx context.Context, args []string) (string, error) {
	verb := ""
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch {
	case verb == "push" && len(args) == 2:
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		ref, err := push(ctx, self, args[0], args[1])
		return ref + "\n", err
	case verb == "copy" && len(args) <= 1:
		dest := "/mnt/models"
		if len(args) == 1 {
			dest = args[0]
		}
		return "", copyFiles("/"+folder, dest)
	case verb == "pull" && len(args) == 2:
		ref, err := pull(ctx, args[0], args[1])
		return ref + "\n", err
	}
	return "", errUsage
}

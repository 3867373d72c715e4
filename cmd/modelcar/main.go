// Command modelcar packs a model's files into a container image, and takes them out of one again.
//
//	modelcar push DIR REF     makes an image of DIR's files and pushes it
//	modelcar copy [DEST]      copies the files of the image that it runs in to DEST (default /mnt/models)
//	modelcar pull REF DEST    fetches the image and writes its files to DEST
//
// The files are under /models in the image. Beside them it holds this program, which is what it runs: as an init
// container it copies the files to a volume that the server shares. Symbolic links and the like are refused, and so are
// more than 1 GiB of files.
//
// The same files give the same image, by digest. A REF for push that has neither a tag nor a digest is tagged with the
// first 12 digits of the SHA-256 of the layer with the files. REF may begin with oci://, as KServe writes it, and must
// name the registry. That is spoken to over plain HTTP where it has no TLS, without credentials: a lab's own.
//
// push and pull print the image by its digest, REPOSITORY@sha256:…, and nothing else to stdout.
//
// Exit codes: 0, 1 for a failure, 2 for wrong use, 75 for a registry that could not be reached or failed: another try may
// mend it.
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

// trouble is an error of the registry, and not of what it was asked for.
type trouble struct{ error }

func (t trouble) Unwrap() error { return t.error }

// run is the whole life of the process; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	says, err := do(ctx, args)
	switch {
	case err == nil:
		fmt.Fprint(stdout, says)
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, "modelcar:", err)
		return 2
	}
	fmt.Fprintln(stderr, "modelcar:", err)
	if errors.As(err, new(trouble)) {
		return tempFail
	}
	return 1
}

// do returns what belongs on stdout.
func do(ctx context.Context, args []string) (string, error) {
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

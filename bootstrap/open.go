package bootstrap

import (
	"context"
	"errors"
	neturl "net/url"
	"slices"
	"strings"
	"time"

	"mllab.local/addons"
	"mllab.local/internal/fault"
	"mllab.local/internal/kube"
)

// Running is a lab that is up.
type Running struct {
	Kube     *kube.Client
	URL      string            // of the gateway
	Git      *neturl.URL       // the lab's repository through the gateway, with its token; nil without the addon git
	Images   map[string]string // component -> image reference on the node
	Addons   []string
	Evidence string // folder for the evidence of scenarios
	Close    func() // releases the lab's lock
	// CPU returns the CPU time that the lab's node has used since it was started,
	// in seconds. It asks the container engine.
	CPU func(context.Context) (float64, error)

	coming  []string // addons that an `up` has not completed
	up      string   // its command
	options Options  // of this lab
}

// openBound limits the wait for the API: in a lab that is up it answers at once.
const openBound = 10 * time.Second

// Open connects to the lab that `up` created. It returns fault.CannotTest, with
// the command that fixes it, if the lab does not exist, is not complete or does
// not answer.
//
// Open locks the lab until Close: two callers would disturb each other's numbers,
// and `down` could remove the lab meanwhile.
func Open(ctx context.Context, o Options, verb string) (Running, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Running{}, err
	}
	unlock, err := o.store().lock(verb)
	if err != nil {
		if errors.Is(err, ErrLocked) { // nothing was tested
			err = fault.CannotTest(fault.Hint(err), "%w", err)
		}
		return Running{}, err
	}
	lab, err := OpenReadOnly(ctx, o)
	if err != nil {
		unlock()
		return Running{}, err
	}
	lab.Close = unlock
	return lab, nil
}

// OpenReadOnly is Open without the lock, for callers that change nothing. Close
// is nil.
func OpenReadOnly(ctx context.Context, o Options) (Running, error) {
	o, st, err := o.finished()
	if err != nil {
		return Running{}, err
	}
	up := o.upAgain(st)
	client, err := kube.Connect(o.store().kubeconfig(), ownContext(o.store().kubeconfig()))
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
		Evidence: o.store().evidence(), up: up, options: o,
	}
	lab.CPU = nodeCPU(o.Name, st, realDeps())
	if st.Phase == phaseCore {
		lab.Addons, lab.coming = addons.Core(), st.Addons
	}
	if slices.Contains(lab.Addons, "git") {
		if lab.Git, err = addons.GitRemote(bounded, client, lab.URL); ctx.Err() != nil {
			return Running{}, ctx.Err()
		} else if err != nil {
			return Running{}, fault.CannotTest(up+" repairs it", "lab %q: %w", o.Name, err)
		}
	}
	return lab, nil
}

// nodeCPU is Running.CPU. It looks for the engine when it is asked first.
func nodeCPU(cluster string, st *state, p deps) func(context.Context) (float64, error) {
	var e *engine
	return func(ctx context.Context) (float64, error) {
		if e == nil {
			var err error
			if e, err = findEngine(ctx, p, "", st); err != nil {
				return 0, err
			}
		}
		return e.nodeCPU(ctx, nodeName(cluster))
	}
}

// EvidenceDir returns the folder for what scenarios see on the lab, whether it is
// there or not.
func EvidenceDir(o Options) (string, error) {
	o, err := o.withDefaults()
	return o.store().evidence(), err
}

// Missing returns the addons among needs that the lab does not have.
func (r Running) Missing(needs []string) []string {
	return slices.DeleteFunc(slices.Clone(needs), func(n string) bool { return slices.Contains(r.Addons, n) })
}

// Adding returns the command that adds addons to the lab, and nothing else.
func (r Running) Adding(names []string) string {
	if !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(r.coming, n) }) {
		return r.up // it still runs, or was interrupted
	}
	up := "up "
	if !isWhole(r.Addons) {
		up += "--core "
	}
	return r.options.Command(up + "--with " + strings.Join(names, ","))
}

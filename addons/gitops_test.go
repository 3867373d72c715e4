package addons

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

func TestFluxHasTheNamesThatItsUsersLookFor(t *testing.T) {
	objs := render(t, flux())
	for _, name := range []string{
		"Namespace/flux-system", "Service/flux-system/source-controller", "ClusterRoleBinding/cluster-reconciler-flux-system",
		"CustomResourceDefinition/gitrepositories.source.toolkit.fluxcd.io", "CustomResourceDefinition/helmcharts.source.toolkit.fluxcd.io",
		"CustomResourceDefinition/kustomizations.kustomize.toolkit.fluxcd.io", "CustomResourceDefinition/helmreleases.helm.toolkit.fluxcd.io",
	} {
		find(t, objs, name)
	}
	for _, c := range fluxControllers {
		find(t, objs, "ServiceAccount/flux-system/"+c)
		deployment := find(t, objs, "Deployment/flux-system/"+c)
		if v := deployment.GetLabels()["app.kubernetes.io/version"]; !strings.HasPrefix(v, "v1.") {
			t.Errorf("%s has the version %q", c, v)
		}
		pod, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "template", "metadata", "labels")
		if pod["app"] != c || pod["app.kubernetes.io/part-of"] != "flux" {
			t.Errorf("pods of %s have the labels %v", c, pod)
		}
	}
	for _, o := range objs {
		for k, want := range map[string]string{"app.kubernetes.io/part-of": "flux", "app.kubernetes.io/instance": "flux-system"} {
			if got := o.GetLabels()[k]; got != want {
				t.Errorf("%s: %s is %q, want %q", kube.Name(o), k, got, want)
			}
		}
	}
}

func TestFluxRunsOneOfEachControllerWithoutAnElection(t *testing.T) {
	specs := podSpecs(render(t, flux()))
	if len(specs) != len(fluxControllers) {
		t.Errorf("there are %v", slices.Sorted(maps.Keys(specs)))
	}
	for name, spec := range specs {
		containers, _, _ := unstructured.NestedSlice(spec, "containers")
		args, _, _ := unstructured.NestedStringSlice(containers[0].(map[string]any), "args")
		if slices.Contains(args, "--enable-leader-election") || !slices.Contains(args, "--watch-all-namespaces") {
			t.Errorf("%s runs with %v", name, args)
		}
		if _, limited, _ := unstructured.NestedString(containers[0].(map[string]any), "resources", "limits", "cpu"); limited {
			t.Errorf("%s has a limit of CPU", name)
		}
	}
	for _, o := range render(t, flux()) {
		if kind, _, _ := unstructured.NestedString(o.Object, "spec", "strategy", "type"); o.GetKind() == "Deployment" && kind != "Recreate" {
			t.Errorf("%s: strategy %q could run two at once", kube.Name(o), kind)
		}
	}
}

// Rights are what a controller's own module asks for; only what applies Git's content has all of them.
func TestOnlyTheAppliersOfFluxMayEverything(t *testing.T) {
	objs := render(t, flux())
	all := map[string][]string{}
	for _, o := range objs {
		if o.GetKind() != "ClusterRoleBinding" {
			continue
		}
		role, _, _ := unstructured.NestedString(o.Object, "roleRef", "name")
		subjects, _, _ := unstructured.NestedSlice(o.Object, "subjects")
		for _, s := range subjects {
			all[role] = append(all[role], fmt.Sprint(s.(map[string]any)["name"]))
		}
	}
	want := map[string][]string{"cluster-admin": {"kustomize-controller", "helm-controller"}}
	for _, c := range fluxControllers {
		want[c+"-flux-system"] = []string{c}
		rules, _, _ := unstructured.NestedSlice(find(t, objs, "ClusterRole/"+c+"-flux-system").Object, "rules")
		for _, r := range rules {
			if groups, _, _ := unstructured.NestedStringSlice(r.(map[string]any), "apiGroups"); slices.Contains(groups, "*") {
				t.Errorf("the role of %s is about every group", c)
			}
		}
	}
	if !maps.EqualFunc(all, want, slices.Equal[[]string]) {
		t.Errorf("bound are %v, want %v", all, want)
	}
}

func TestTheLabsGitIsReachedFromOutsideOnlyWhereTheTokenIsAsked(t *testing.T) {
	objs := render(t, git())
	ports, _, _ := unstructured.NestedSlice(find(t, objs, "Service/git/git").Object, "spec", "ports")
	target := map[int64]any{}
	for _, p := range ports {
		target[p.(map[string]any)["port"].(int64)] = p.(map[string]any)["targetPort"]
	}
	if target[80] != "inside" || target[81] != "outside" || len(target) != 2 {
		t.Errorf("the Service has %v", target)
	}
	route := find(t, objs, "VirtualService/git/git")
	text := fmt.Sprint(route.Object["spec"])
	if strings.Count(text, "number:") != 1 || !strings.Contains(text, "number:81") || !strings.Contains(text, "prefix:/git/") {
		t.Errorf("the gateway routes to %s", text)
	}
	if !strings.HasPrefix(gitPath, "/git/") || GitInside != "http://git.git.svc.cluster.local"+strings.TrimPrefix(gitPath, "/git") {
		t.Errorf("outside the repository is %s, inside %s: not the same", gitPath, GitInside)
	}
	server := containers(find(t, render(t, git()), "Deployment/git/git"))[0]
	follow, err := rootObjects()
	if err != nil {
		t.Fatal(err)
	}
	if url, _, _ := unstructured.NestedString(follow[0].Object, "spec", "url"); url != GitInside || !slices.Contains(server["args"].([]any), any("--url="+GitInside)) {
		t.Errorf("the server does not know that it is %s", GitInside)
	}
}

func TestTheLabsGitKeepsItsDataOnTheNodeAndMayOnlyAskFlux(t *testing.T) {
	objs := render(t, git())
	spec := podSpecs(objs)["Deployment/git/git"]
	volumes, _, _ := unstructured.NestedSlice(spec, "volumes")
	if path, _, _ := unstructured.NestedString(volumes[0].(map[string]any), "hostPath", "path"); !strings.HasPrefix(path, "/var/") {
		t.Errorf("the data is at %q; of a node, only /var outlives a restart", path)
	}
	if secret, _, _ := unstructured.NestedString(volumes[1].(map[string]any), "secret", "secretName"); secret != gitSecret {
		t.Errorf("the server's token is of Secret %q, mllab makes %q", secret, gitSecret)
	}
	containers, _, _ := unstructured.NestedSlice(spec, "containers")
	security, _, _ := unstructured.NestedMap(containers[0].(map[string]any), "securityContext")
	if security["runAsUser"] != nil || security["readOnlyRootFilesystem"] != true || security["allowPrivilegeEscalation"] != false {
		t.Errorf("the server runs with %v", security)
	}
	bound := map[string]string{}
	for _, o := range objs {
		role, is, _ := unstructured.NestedString(o.Object, "roleRef", "name")
		if is {
			bound[kube.Name(o)] = role
		}
		if rules, is, _ := unstructured.NestedSlice(o.Object, "rules"); is && (len(rules) != 1 || strings.Contains(fmt.Sprint(rules), "*")) {
			t.Errorf("%s has the rules %v", kube.Name(o), rules)
		}
	}
	if want := map[string]string{"ClusterRoleBinding/git-list": "git-list", "RoleBinding/flux-system/git-ask": "git-ask"}; !maps.Equal(bound, want) {
		t.Errorf("bound are %v, want %v", bound, want)
	}
}

// gateway answers as the lab's Git does, or as something is wrong with it.
func gateway(t *testing.T, open bool, refs string) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path != gitPath+"/info/refs" || r.URL.Query().Get("service") != "git-upload-pack":
			http.NotFound(w, r)
		case !open && (user != gitUser || password != "s3cret"):
			http.Error(w, "no", http.StatusUnauthorized)
		default:
			fmt.Fprint(w, refs)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// oneSecret is a cluster that holds one Secret.
type oneSecret struct {
	client.Reader
	secret corev1.Secret
}

func (s oneSecret) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if key != client.ObjectKeyFromObject(&s.secret) {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, key.Name)
	}
	*into.(*corev1.Secret) = s.secret
	return nil
}

func TestTheRemoteHasTheTokenOfTheCluster(t *testing.T) {
	in := oneSecret{secret: corev1.Secret{Data: map[string][]byte{"username": []byte(gitUser), "password": []byte("s3cret")}}}
	if _, err := GitRemote(t.Context(), in, "http://127.0.0.1:8080"); !apierrors.IsNotFound(err) {
		t.Errorf("without the addon: %v", err)
	}
	in.secret.Namespace, in.secret.Name = gitNamespace, gitSecret
	remote, err := GitRemote(t.Context(), in, "http://127.0.0.1:8080")
	if err != nil || remote.String() != "http://mllab:s3cret@127.0.0.1:8080/git/lab.git" {
		t.Errorf("got %v, %v", remote, err)
	}
}

func TestTheTipIsReadWithTheTokenAndOnlyWithIt(t *testing.T) {
	const tip = "ffffffffffffffffffffffffffffffffffffffff"
	const refs = "001e# service=git-upload-pack\n0000003d" + tip + " refs/heads/main\n0000"
	for name, c := range map[string]struct {
		open              bool
		token, refs, want string
	}{
		"as it should be":        {false, "s3cret", refs, ""},
		"open to all":            {true, "s3cret", refs, "not a refusal"},
		"another token":          {false, "other", refs, "with the token the answer is 401"},
		"a repository of no use": {false, "s3cret", "0000", "no branch main"},
	} {
		remote, err := url.Parse(gateway(t, c.open, c.refs) + gitPath)
		if err != nil {
			t.Fatal(err)
		}
		remote.User = url.UserPassword(gitUser, c.token)
		got, err := gitTip(t.Context(), probe.NewHTTP(time.Minute), remote)
		switch {
		case c.want == "" && (err != nil || got != tip):
			t.Errorf("%s: %q, %v", name, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), c.token)):
			t.Errorf("%s: %v, want %q and no token", name, err, c.want)
		}
	}
}

package bootstrap

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kinderrors "sigs.k8s.io/kind/pkg/errors"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	"sigs.k8s.io/kind/pkg/log"
	"sigs.k8s.io/yaml"

	"mllab.local/addons"
	"mllab.local/bootstrap/images"
	"mllab.local/manifests"
)

func TestKindIsToldWhatALabNeeds(t *testing.T) {
	for _, c := range []struct {
		name, version string
		cgroup        bool // it is said that the kubelet may run on v1
	}{
		{"a kubelet that takes cgroup v1", "v1.34.4", false},
		{"a kubelet that refuses it", "v1.36.5", true},
		{"version unknown", "", false},
	} {
		text, err := clusterConfig("lab", 8080, 6443, c.version)
		if err != nil {
			t.Fatal(err)
		}
		var cfg v1alpha4.Cluster
		if err := yaml.UnmarshalStrict([]byte(text), &cfg); err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, text)
		}
		n := cfg.Networking
		if cfg.Name != "lab" || n.APIServerAddress != "127.0.0.1" || n.APIServerPort != 6443 || n.PodSubnet != "10.244.0.0/16" || !n.DisableDefaultCNI || n.DNSSearch == nil || len(*n.DNSSearch) != 0 {
			t.Errorf("%s: %+v", c.name, cfg)
		}
		if len(cfg.Nodes) != 1 || len(cfg.Nodes[0].ExtraPortMappings) != 1 || cfg.Nodes[0].ExtraPortMappings[0] != (v1alpha4.PortMapping{ListenAddress: "127.0.0.1", HostPort: 8080, ContainerPort: addons.NodePortHTTP}) {
			t.Errorf("%s: nodes %+v", c.name, cfg.Nodes)
		}
		patches := map[string]map[string]any{}
		var skipped []any
		for _, text := range cfg.KubeadmConfigPatches {
			var patch map[string]any
			if err := yaml.UnmarshalStrict([]byte(text), &patch); err != nil {
				t.Fatal(err)
			}
			patches[patch["kind"].(string)] = patch
			skipped = append(skipped, patch["skipPhases"])
		}
		kubelet := patches["KubeletConfiguration"]
		if _, progress := kubelet["failCgroupV1"]; progress != c.cgroup || kubelet["serializeImagePulls"] != false {
			t.Errorf("%s: kubelet %v", c.name, kubelet)
		}
		if d, set := kubelet["cgroupDriver"]; set {
			t.Errorf("%s: the kubelet's cgroup driver is %v, whatever containerd's is", c.name, d)
		}
		if !slices.ContainsFunc(skipped, func(phases any) bool { return fmt.Sprint(phases) == "[preflight kubelet-finalize]" }) {
			t.Errorf("%s: kubeadm skips %v: preflight is kind's, and for the other it starts the kubelet again", c.name, skipped)
		}
		if proxy, _ := patches["KubeProxyConfiguration"]["iptables"].(map[string]any); proxy["minSyncPeriod"] != "100ms" {
			t.Errorf("%s: kube-proxy has %v: a second after each change of its rules it waits", c.name, proxy)
		}
		if len(cfg.ContainerdConfigPatches) > 0 {
			t.Errorf("%s: for a patch of containerd's configuration kind starts it again", c.name)
		}
	}
	if gatewayPort != fmt.Sprintf("%d/tcp", addons.NodePortHTTP) {
		t.Errorf("the mark is port %s, the gateway's is %d", gatewayPort, addons.NodePortHTTP)
	}
}

func TestWhatANodeChangesInContainerdsConfigurationIsThere(t *testing.T) {
	dropIn, err := manifests.Node.ReadFile("node/etc/systemd/system/containerd.service.d/20-mllab.conf")
	if err != nil {
		t.Fatal(err)
	}
	config, err := manifests.FS.ReadFile("upstream/kind-base/etc/containerd/config.toml")
	if err != nil {
		t.Fatal(err)
	}
	changes := regexp.MustCompile(`['"]s/([^/]+)/`).FindAllSubmatch(dropIn, -1)
	if len(changes) != 2 {
		t.Fatalf("changes: %q", changes)
	}
	// With the last one containerd reads the registry's address from its default folder.
	for _, text := range []string{string(changes[0][1]), string(changes[1][1]), "discard_unpacked_layers = true"} {
		if !strings.Contains(string(config), text) {
			t.Errorf("kind's containerd configuration has no %q", text)
		}
	}
}

func TestKindsTalkBecomesReasons(t *testing.T) {
	var progress []string
	l := kindLog{progress: func(s string) { progress = append(progress, s) }}
	l.V(0).Infof("Creating cluster %q ...\n", "mllab")
	l.V(0).Infof(" • %s  ...\n", "Ensuring node image (localhost/mllab-node:abc) 🖼")
	l.V(0).Infof(" ✓ %s\n", "Starting control-plane 🕹️")
	l.V(1).Info("debug")
	l.Warn("enabling experimental podman provider")
	l.V(0).Info("\n")
	if want := "ensuring node image (localhost/mllab-node:abc)|starting control-plane"; strings.Join(progress, "|") != want {
		t.Errorf("said %q", progress)
	}
	var _ log.Logger = l
}

func TestKindsErrorsKeepTheLastWordsOfWhatFailed(t *testing.T) {
	err := kindError(kinderrors.Wrap(&kindexec.RunError{
		Command: []string{"podman", "exec", "x"}, Inner: errors.New("exit status 1"),
		Output: []byte("line\n[wait-control-plane] timed out\nk8s.io/kubeadm/app.(*Runner).Run.func1\n\tk8s.io/kubeadm/app/run.go:262\nmain.main\n\truntime/proc.go:290"),
	}, "failed to init node with kubeadm"))
	if want := "failed to init node with kubeadm:\n  line\n  [wait-control-plane] timed out"; err.Error() != want {
		t.Errorf("%q", err)
	}
	silent := kindError(kinderrors.Wrap(&kindexec.RunError{Command: []string{"podman"}, Inner: errors.New("exit status 125")}, "failed to delete nodes"))
	if !strings.Contains(silent.Error(), "exit status 125") {
		t.Errorf("%q", silent)
	}
	if plain := errors.New("plain"); kindError(plain) != plain {
		t.Error("another error changed")
	}
}

func TestTheNodeRefusesWhatWouldLeaveItForTheLabsOwnRanges(t *testing.T) {
	text, err := clusterConfig("lab", 8080, 6443, "v1.36.5")
	if err != nil {
		t.Fatal(err)
	}
	var cfg v1alpha4.Cluster
	if err := yaml.UnmarshalStrict([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	services, pods := cfg.Networking.ServiceSubnet, cfg.Networking.PodSubnet
	read := func(name string) []string {
		data, err := manifests.Node.ReadFile("node/etc/systemd/system/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(string(data), "\n")
	}
	unit := read("mllab-network.service")
	for _, rule := range []string{
		"-A OUTPUT -d " + services + " -j REJECT",
		"-A FORWARD -d " + services + " -j REJECT",
		"-A FORWARD -d " + pods + " -o eth0 -j REJECT",
		"-t mangle -A POSTROUTING -d " + pods + " -o eth0 -j DROP",
		"-t nat -A POSTROUTING -s " + pods + " ! -d " + pods + " -j MASQUERADE",
	} {
		if !slices.Contains(unit, "ExecStart=/usr/sbin/iptables -w "+rule) { // "=-" would go on without it
			t.Errorf("the node has no rule %q", rule)
		}
	}
	kubelet := read("kubelet.service.d/20-mllab.conf")
	for _, line := range []string{"Requires=mllab-network.service", "After=containerd.service mllab-network.service"} {
		if !slices.Contains(kubelet, line) {
			t.Errorf("the kubelet starts pods without the rules: no %q", line)
		}
	}
	_, subnet, err := net.ParseCIDR(services)
	if err != nil {
		t.Fatal(err)
	}
	subnet.IP[3]++
	if api := "-d " + subnet.IP.String() + " -p tcp --dport 443 -j REDIRECT"; !strings.Contains(strings.Join(unit, "\n"), api) {
		t.Errorf("the way to the API has no rule with %q", api)
	}
}

// A dry run prints what up gives to kind, also what depends on the version of Kubernetes.
func TestADryRunHasTheConfigurationOfUp(t *testing.T) {
	doc, err := Plan(UpOptions{Options: Options{Name: "lab", State: t.TempDir(), Cache: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	want, err := clusterConfig("lab", 0, 0, images.KubeVersion)
	if err != nil {
		t.Fatal(err)
	}
	if doc.KindConfig != want {
		t.Errorf("the dry run says\n%s\nup writes\n%s", doc.KindConfig, want)
	}
}

package addons

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"mllab.local/internal/kube"
	"mllab.local/internal/probe"
)

const (
	gitNamespace = "git"
	gitSecret    = "git-token"
	gitUser      = "mllab"
	gitPath      = "/git/lab.git" // behind the gateway
)

// GitInside is the address of the lab's repository for those in the cluster,
// who need no token to read it. Flux is asked to look at once after a push when
// a GitRepository has just this address.
const GitInside = "http://git.git.svc.cluster.local/lab.git"

// git is a Git server with one repository, behind the gateway under /git/.
func git() Addon {
	return Addon{
		Name:       "git",
		Summary:    "the lab's Git: a repository that Flux follows",
		StartAfter: []string{"network", "flux"}, // verified by the way that network makes
		Images:     []string{"gitserver"},
		PostApply:  makeGitToken,
		Verify:     verifyGit,
	}
}

// makeGitToken makes the token, once in the life of a cluster. It is in the
// form that Flux and Kubernetes know for a name and a password.
func makeGitToken(ctx context.Context, env Env, reason func(string)) error {
	return poll(ctx, reason, "making the token of the lab's Git", func(ctx context.Context) error {
		return client.IgnoreAlreadyExists(env.Kube.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: gitNamespace, Name: gitSecret, Labels: map[string]string{managedBy: mllab}},
			Type:       corev1.SecretTypeBasicAuth,
			StringData: map[string]string{corev1.BasicAuthUsernameKey: gitUser, corev1.BasicAuthPasswordKey: rand.Text()},
		}))
	})
}

// GitRemote returns the address under which `git` on this machine clones the
// lab's repository and pushes to it, through the gateway at that URL. The token
// is in it.
//
// Errors: a NotFound of Kubernetes when the lab has no addon git.
func GitRemote(ctx context.Context, c client.Reader, gateway string) (*url.URL, error) {
	var secret corev1.Secret
	if err := c.Get(ctx, client.ObjectKey{Namespace: gitNamespace, Name: gitSecret}, &secret); err != nil {
		return nil, fmt.Errorf("reading the token of the lab's Git: %w", err)
	}
	at, err := url.Parse(gateway + gitPath)
	if err != nil {
		return nil, fmt.Errorf("the gateway's address: %w", err)
	}
	at.User = url.UserPassword(string(secret.Data[corev1.BasicAuthUsernameKey]), string(secret.Data[corev1.BasicAuthPasswordKey]))
	return at, nil
}

// verifyGit reads the refs through the gateway, which must refuse that without
// the token, and has Flux fetch the same commit.
func verifyGit(ctx context.Context, env Env, reason func(string)) error {
	remote, err := GitRemote(ctx, env.Kube, env.Gateway)
	if err != nil {
		return err
	}
	var tip string
	err = poll(ctx, reason, "reading the refs through the gateway", func(ctx context.Context) (err error) {
		tip, err = gitTip(ctx, env.Send, remote)
		return err
	})
	if err != nil {
		return err
	}
	return verifyGitByFlux(ctx, env, reason, "main@sha1:"+tip)
}

// gitTip returns the commit of main. That it can be had without the token, or
// not with it, is an error.
func gitTip(ctx context.Context, send probe.Sender, remote *url.URL) (string, error) {
	status, _, err := gitRefs(ctx, send, remote, false)
	if err != nil || status != http.StatusUnauthorized {
		return "", errors.Join(fmt.Errorf("%s: without the token the answer is %d, not a refusal", remote.Redacted(), status), err)
	}
	status, body, err := gitRefs(ctx, send, remote, true)
	if err != nil || status != http.StatusOK {
		return "", errors.Join(fmt.Errorf("%s: with the token the answer is %d", remote.Redacted(), status), err)
	}
	const length = 40 // of a SHA-1
	before, _, found := strings.Cut(body, " refs/heads/main\n")
	if !found || len(before) < length {
		return "", fmt.Errorf("%s: there is no branch main", remote.Redacted())
	}
	return before[len(before)-length:], nil
}

// gitRefs asks for the refs as a clone does.
func gitRefs(ctx context.Context, send probe.Sender, remote *url.URL, token bool) (status int, body string, err error) {
	r := probe.Request{URL: remote.Scheme + "://" + remote.Host + remote.Path + "/info/refs?service=git-upload-pack", Header: http.Header{}, Fresh: true}
	if token {
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(remote.User.String())))
	}
	a := send.Send(ctx, r)
	if a.Err != "" {
		return 0, "", errors.New(a.Err)
	}
	return a.Status, a.Body, nil
}

func verifyGitByFlux(ctx context.Context, env Env, reason func(string), revision string) error {
	return use(ctx, env, reason, "having Flux fetch the repository", "git", func(_ context.Context, live *unstructured.Unstructured) error {
		if ready := fluxReady(live); !ready.True() || !strings.Contains(ready.Message, revision) {
			return fmt.Errorf("%s: %s, not yet %s", kube.Name(live), ready.Message, revision)
		}
		return nil
	})
}

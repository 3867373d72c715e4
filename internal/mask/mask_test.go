package mask

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestSecretsAreMaskedAndTheRestStays(t *testing.T) {
	const known = "correct horse\nbattery"
	m := New([]string{known, "abc"})
	for name, c := range map[string]struct{ text, want string }{
		"a known value":                {"it is " + known + "!", "it is [masked]!"},
		"the same in base64":           {"data: " + base64.StdEncoding.EncodeToString([]byte(known)), "data: [masked]"},
		"the same in JSON":             {`{"x":"correct horse\nbattery"}`, `{"x":"[masked]"}`},
		"a short value is any text":    {"abc def", "abc def"},
		"a private key":                {"a\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nb", "a\n[masked]\nb"},
		"a private key cut short":      {"-----BEGIN PRIVATE KEY-----\nMII", "[masked]"},
		"a certificate is for all":     {"-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"},
		"a token of an account":        {"got eyJhbGciOi.eyJpc3Mi.c2ln-_ from it", "got [masked] from it"},
		"a header":                     {"Authorization: Bearer s3cr3t-s3cr3t", "Authorization: Bearer [masked]"},
		"a URL":                        {"http://mllab:s3cret@127.0.0.1:8080/x", "http://mllab:[masked]@127.0.0.1:8080/x"},
		"a URL with a port alone":      {"http://127.0.0.1:8080/a@b", "http://127.0.0.1:8080/a@b"},
		"a kubeconfig's key":           {"    client-key-data: LS0tLS1C", "    client-key-data: [masked]"},
		"a password in JSON":           {`{"password":"s3cret","user":"me"}`, `{"password":"[masked]","user":"me"}`},
		"a password in quoted JSON":    {`"{\"password\":\"s3cret\"}"`, `"{\"password\":\"[masked]\"}"`},
		"an environment variable":      {"GIT_TOKEN=s3cret next", "GIT_TOKEN=[masked] next"},
		"a volume's secret has a name": {"secret:\n  secretName: x", "secret:\n  secretName: x"},
		"GitHub's":                     {"ghp_0123456789abcdef", "[masked]"},
	} {
		if got := m.Text(c.text); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := (New(nil)).Text(strings.Repeat("plain text\n", 3)); got != strings.Repeat("plain text\n", 3) {
		t.Errorf("%q", got)
	}
}

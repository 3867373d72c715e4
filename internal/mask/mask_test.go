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
		"a password with @ and /":      {"https://me:p@ss/w@h/r and http://h:80/a@b", "https://me:[masked]@h/r and http://h:80/a@b"},
		"a token in place of a user":   {"https://0123456789abcdef@h/r ssh://git@h/r", "https://[masked]@h/r ssh://git@h/r"},
		"a URL's query":                {"GET /x?access_token=s3cret&n=1", "GET /x?access_token=[masked]&n=1"},
		"a password with blanks":       {`{"password":"a s3cret, \"long\"","user":"me"}`, `{"password":"[masked]","user":"me"}`},
		"the same in quoted JSON":      {`"{\"password\":\"a s3cret\",\"user\":\"me\"}"`, `"{\"password\":\"[masked]\",\"user\":\"me\"}"`},
		"YAML in JSON":                 {`{"text":"password: \"a s3cret\" and more"}`, `{"text":"password: \"[masked]\" and more"}`},
		"a diff in JSON": {`{"text":"+++ a <b>\n+  - name: DB_PASSWORD\n+    value: a s3cret\n+  - name: \"A\"\n-  api_token: s3cret\n"}`,
			`{"text":"+++ a <b>\n+  - name: DB_PASSWORD\n+    value: [masked]\n+  - name: \"A\"\n-  api_token: [masked]\n"}`},
		"a volume of a token":        {`volume \"istio-token\" (UniqueName: x) and "istio-token" next`, `volume \"istio-token\" (UniqueName: x) and "istio-token" next`},
		"the same in YAML":           {"db_password: a s3cret\nuser: me", "db_password: [masked]\nuser: me"},
		"a container's environment":  {`[{"name":"DB_PASSWORD","value":"s3cret"},{"name":"A","value":"b"}]`, `[{"name":"DB_PASSWORD","value":"[masked]"},{"name":"A","value":"b"}]`},
		"the same, quoted":           {`{\"name\":\"DB_PASSWORD\",\"value\":\"s3cret\"}`, `{\"name\":\"DB_PASSWORD\",\"value\":\"[masked]\"}`},
		"the same, of YAML":          {"- name: DB_PASSWORD\n  value: s3cret\n- name: A\n  value: b", "- name: DB_PASSWORD\n  value: [masked]\n- name: A\n  value: b"},
		"a flag's argument":          {"run --db-password s3cret --n 1", "run --db-password [masked] --n 1"},
		"the same in a list":         {`["--token", "s3cret", "--n"]`, `["--token", "[masked]", "--n"]`},
		"the same in a list of YAML": {"- --token\n- s3cret\n- --n", "- --token\n- [masked]\n- --n"},
		"AWS's":                      {"AWS_SECRET_ACCESS_KEY=s3cret next", "AWS_SECRET_ACCESS_KEY=[masked] next"},
		"a header of another scheme": {"authorization: Token s3cret", "authorization: Token [masked]"},
		"a cookie":                   {"Cookie: a=s3cret; b=s3cret\nHost: h", "Cookie: [masked]\nHost: h"},
		"Docker's configuration":     {`{"auths":{"h":{"auth":"czNjcmV0OnMzY3JldA=="}}}`, `{"auths":{"h":{"auth":"[masked]"}}}`},
		"a private key's end":        {"czNjcmV0czNjcmV0czNjcmV0\nczNjcmV0czNjcmV0\n-----END PRIVATE KEY-----\nb", "[masked]\nb"},
		"a private key in base64":    {"LS0tLS1CRUdJTiBQUklWQVRF LS0tLS1CRUdJTiBDRVJU", "[masked] LS0tLS1CRUdJTiBDRVJU"},
		"a Secret":                   {"kind: Secret\nstringData:\n  a: s3cret\n  b: |\n    s3cret\ntype: Opaque", "kind: Secret\nstringData: [masked]\ntype: Opaque"},
		"a Secret in JSON":           {`{"data":{"a":"czNjcmV0"},"kind":"Secret"}`, `{"data":{[masked]},"kind":"Secret"}`},
		"a Secret in quoted JSON":    {`{\"data\":{\"a\":\"czNjcmV0\"},\"kind\":\"Secret\"}`, `{\"data\":{[masked]},\"kind\":\"Secret\"}`},
		"a ConfigMap":                {`{"data":{"a":"b"},"kind":"ConfigMap"}`, `{"data":{"a":"b"},"kind":"ConfigMap"}`},
		"a folder":                   {"PWD=/home/me", "PWD=/home/me"},
		"a Secret in a diff":         {"+kind: Secret\n+stringData:\n+  a: hunter22\n+type: Opaque", "+kind: Secret\n+stringData: [masked]\n+type: Opaque"},
		"a change of one":            {" kind: Secret\n data:\n-  a: old\n+  a: new\n type: Opaque\n", " kind: Secret\n data: [masked]\n type: Opaque\n"},
		"the same in a JSON string":  {`{"text":" kind: Secret\n data:\n-  a: old\n+  a: new\n type: Opaque"}`, `{"text":" kind: Secret\n data: [masked]\n type: Opaque"}`},
		"data that was renamed":      {" kind: Secret\n-data:\n-  a: old\n+data:\n+  b: new\n--- a/f\n+++ b/f\n", " kind: Secret\n-data: [masked]\n+data: [masked]\n--- a/f\n+++ b/f\n"},
		"an empty line in a Secret":  {"kind: Secret\nstringData:\n  a: |\n    first\n\n    hunter22\n\ntype: Opaque", "kind: Secret\nstringData: [masked]\n\ntype: Opaque"},
		"a comment after data":       {"kind: Secret\ndata: # encoded\n  a: Yg==\n---\nkind: Pod", "kind: Secret\ndata: [masked]\n---\nkind: Pod"},
		"a list of Secrets":          {"- data:\n    a: Yg==\n  kind: Secret\n- kind: Pod", "- data: [masked]\n  kind: Secret\n- kind: Pod"},
		"a Secret without data":      {"kind: Secret\ndata:\ntype: Opaque", "kind: Secret\ndata:\ntype: Opaque"},
		"a value of many lines":      {"password: |\n  first\n\n  hunter22\nuser: me", "password: [masked]\nuser: me"},
		"the same, folded":           {"  - password: >-\n      hunter22\n    user: me", "  - password: [masked]\n    user: me"},
		"the same, in quotes":        {"password: \"a\n  hunter22\"\ntoken: 'a\n  hunter22'\nuser: me", "password: [masked]\ntoken: [masked]\nuser: me"},
		"the same, changed":          {"-password: |\n-  old\n+password: |\n+  new\n user: me", "-password: [masked]\n+password: [masked]\n user: me"},
		"an environment in quotes":   {"- name: DB_PASSWORD\n  value: '@s3cret!'\n- name: A\n  value: 'b'", "- name: DB_PASSWORD\n  value: [masked]\n- name: A\n  value: 'b'"},
		"one of many lines":          {"- name: DB_PASSWORD\n  value: |-\n    s3cret\n\n    s3cret\n- name: A\n  value: b", "- name: DB_PASSWORD\n  value: [masked]\n- name: A\n  value: b"},
		"one with a comma":           {"- name: DB_PASSWORD\n  value: pa,s3cret\n- name: A", "- name: DB_PASSWORD\n  value: [masked]\n- name: A"},
		"one that changed":           {" - name: DB_PASSWORD\n-  value: old\n+  value: new\n - name: A\n", " - name: DB_PASSWORD\n-  value: [masked]\n+  value: [masked]\n - name: A\n"},
		"one in a diff, in quotes":   {"+- name: DB_PASSWORD\n+  value: \"a s3cret\"\n+- name: A\n", "+- name: DB_PASSWORD\n+  value: [masked]\n+- name: A\n"},
		"one on one line":            {"{name: DB_PASSWORD, value: '@s3cret, ''x'}, {name: A, value: 'b'}", "{name: DB_PASSWORD, value: '[masked]'}, {name: A, value: 'b'}"},
		"a quote in a value":         {"run with password: 'a''s3cret' as me", "run with password: '[masked]' as me"},
		"a list without blanks":      {`["--token","a s3cret, long","--n"]`, `["--token","[masked]","--n"]`},
		"a quoted list of those":     {`[\"--token\",\"a s3cret\",\"--n\"]`, `[\"--token\",\"[masked]\",\"--n\"]`},
		"a flag's argument, changed": {" - --token\n-- old\n+- new\n - --n\n", " - --token\n-- [masked]\n+- [masked]\n - --n\n"},
		"a flag's, in quotes":        {"run --token 'a s3cret' --n 1", "run --token '[masked]' --n 1"},
		"a flag without an argument": {"- --enable-token\nimage: foo", "- --enable-token\nimage: foo"},
		"Hugging Face's":             {"hf_" + strings.Repeat("aB3", 11) + " hf_hub_download failed", "[masked] hf_hub_download failed"},
		"npm's":                      {"npm_" + strings.Repeat("aB3", 12) + " npm_config_cache=/x", "[masked] npm_config_cache=/x"},
		"OpenAI's":                   {"sk-proj-a_" + strings.Repeat("aB3", 12) + "-x pod sk-learn-model-canary-7d9f4b6c8-x2x4z", "[masked] pod sk-learn-model-canary-7d9f4b6c8-x2x4z"},
		"addresses with ports": {"http://svc.ns:8080,admin@example.com https://127.0.0.1:2379,https://me@10.0.0.2 https://svc.example.com,admin@example.com",
			"http://svc.ns:8080,admin@example.com https://127.0.0.1:2379,https://me@10.0.0.2 https://svc.example.com,admin@example.com"},
		"a password of digits":    {"http://me:12345@h http://me:12ab@h/x", "http://me:[masked]@h http://me:[masked]@h/x"},
		"what is far from a name": {"the password is unknown\na: b\nc: d\ne: f\n", "the password is unknown\na: b\nc: d\ne: f\n"},
		"GitHub's":                {"ghp_0123456789abcdef", "[masked]"},
	} {
		if got := m.Text(c.text); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	key := strings.Repeat("s3cret", 4)
	m = New([]string{"password1", "password123", "-----BEGIN\n" + key + "\n\"rest of it"})
	for text, want := range map[string]string{
		"one begins as the other: password123 password1": "one begins as the other: [masked] [masked]",
		"a line of it alone: " + key:                     "a line of it alone: [masked]",
		`in JSON: -----BEGIN\n` + key + `\n\"rest of it`: "in JSON: [masked]",
	} {
		if got := m.Text(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (New(nil)).Text(strings.Repeat("plain text\n", 3)); got != strings.Repeat("plain text\n", 3) {
		t.Errorf("%q", got)
	}
}

// Without its word, a form would never be tried.
func TestEachFormHasAWordThatFindsIt(t *testing.T) {
	long := strings.Repeat("aB3", 12)
	for _, text := range []string{
		"passwd=%", "passphrase=%", "db_pass=%", "DB_PWD=%", "token=%", "secret=%", "credential=%", "signature=%", "client-key-data=%",
		"secretKey=%", "api_key=%", "apiKey=%", "accessKey=%", "privateKey=%", "PRIVATE-KEY=%",
		"gho_%", "ghp_%", "ghr_%", "ghs_%", "ghu_%", "github_pat_%", "glpat-%", "AKIA%", "ASIA%", "xoxb-%", "AIza%", "hf_%", "npm_%", "sk-%",
		"Basic %", "Bearer %", "Authorization: %", "Cookie: %", `"auth": "%"`, "https://%@h", "https://hooks.slack.com/services/%", "?sig=%", "&key=%", "?auth=%",
	} {
		if got := New(nil).Text("x\n" + strings.Replace(text, "%", long, 1) + "\ny"); strings.Contains(got, long) || !strings.HasPrefix(got, "x\n") || !strings.HasSuffix(got, "\ny") {
			t.Errorf("%s: %q", text, got)
		}
	}
}

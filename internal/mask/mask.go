// Package mask takes secrets out of texts that a person hands on.
package mask

import (
	"encoding/base64"
	"regexp"
	"strings"
)

// Masked is what stands in for a secret.
const Masked = "[masked]"

// shortest is the length in bytes of the shortest value that is looked for everywhere: a shorter one is in any text.
const shortest = 8

// forms are what secrets look like, whoever made them. The first group, if any, stays, and so does the second.
var forms = []*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`),
	regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]+`),                                                                                                    // a JSON web token
	regexp.MustCompile(`\b(?:gh[a-z]_|github_pat_|glpat-|AKIA)\w{10,}`),                                                                                  // of GitHub, GitLab and AWS
	regexp.MustCompile(`(?i)(\b(?:bearer|basic) )[A-Za-z0-9+/=._~-]{8,}`),                                                                                // an Authorization header
	regexp.MustCompile(`(://[^/\s:@]*:)[^@\s/]+(@)`),                                                                                                     // a URL's password
	regexp.MustCompile(`(?i)((?:password|passwd|token|secret|api[-_]?key|client-key-data|private[-_]?key)\\?["']?[ \t]*[:=][ \t]*\\?["']?)[^\s"',}\\]+`), // KEY: VALUE
}

// Masker masks known values, and what looks like a secret.
type Masker struct{ known *strings.Replacer }

// New returns a Masker of values, as they are and in base64. Values of less than 8 bytes are not looked for.
func New(values []string) Masker {
	var pairs []string
	for _, v := range values {
		for _, v := range []string{v, strings.TrimSpace(v)} {
			if len(v) < shortest {
				continue
			}
			encoded := base64.StdEncoding.EncodeToString([]byte(v))
			escaped := strings.ReplaceAll(v, "\n", `\n`)
			pairs = append(pairs, v, Masked, encoded, Masked, strings.TrimRight(base64.RawURLEncoding.EncodeToString([]byte(v)), "="), Masked, escaped, Masked)
		}
	}
	return Masker{strings.NewReplacer(pairs...)}
}

// Text returns text without secrets.
func (m Masker) Text(text string) string {
	text = m.known.Replace(text)
	for _, form := range forms {
		text = form.ReplaceAllString(text, "${1}"+Masked+"${2}")
	}
	return text
}

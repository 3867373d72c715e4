// Package mask takes secrets out of texts that a person hands on.
package mask

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Masked is what stands in for a secret.
const Masked = "[masked]"

// shortest is the length in bytes of the shortest value that is looked for everywhere: a shorter one is in any text.
const shortest = 8

// Parts of forms. Names of secrets have more before them: DB_PASSWORD.
const (
	named = `(?:password|passwd|passphrase|[_-]pass|[_-]pwd|token|secret|credentials?|signature|client-key-data|(?:secret|api|access|private|secret[-_]?access)[-_]?key)`
	more  = `[\w.-]*`
	user  = `://[^/\s:@"'\[]*`
	// Up to the quote that ends a JSON string, and one in a JSON string.
	inQuotes  = `(?:[^"\\\n]|\\.)+`
	inEscaped = `(?:[^\\"]|\\{2,}.|\\[^"\\])+`
)

// forms are what secrets look like, whoever made them. The first group, if any, stays, and so does the second.
var forms = compile(
	`(?s)-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\z)`,
	`(?:[A-Za-z0-9+/=]{16,}(?:\s|\\n)+)+-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----`,               // the end of one, as a log's tail has it
	`\bLS0tLS1CRUdJTiB[A-CE-Z][A-Za-z0-9+/=]+`,                                                     // one in base64; in that place a certificate has a D
	`\beyJ[\w-]+\.[\w-]+\.[\w-]+`,                                                                  // a JSON web token
	`\b(?:gh[a-z]_|github_pat_|glpat-|AKIA|ASIA|xox[a-z]-|AIza|hf_|npm_|sk-)[\w-]{10,}`,            // of GitHub, GitLab, AWS, Slack, Google, Hugging Face, npm and OpenAI
	`(?i)(\bauthorization\\?["']?[:=] *\\?["']?(?:(?:bearer|basic|token|digest) +)?)[^\s"',\\\[]+`, // an Authorization header
	`(?i)(\b(?:bearer|basic) )[A-Za-z0-9+/=._~-]{8,}`,
	`(?i)(\bcookie\\?["']?: *\\?["']?)[^\s"'\\][^"'\n\\]*`,
	`(\bauth\\?":\s*\\?")[A-Za-z0-9+/=]{8,}`,    // in Docker's configuration
	`(`+user+`:)[^/\s"']+(@)`,                   // a URL's password
	`(`+user+`:)[^/\s"']*[^/\s"'\d][^\s"']*(@)`, // the same with a slash in it; a port has digits only
	`(://)[^/\s:@"'\[]{16,}(@)`,                 // a token in place of a user
	`(//hooks\.slack\.com/services/)[^\s"'\\]+`,
	`(?i)([?&](?:[\w-]*sig|key|auth)=)[^&\s"'\\]+`,
	// The value of a name.
	`(?i)(`+named+`(?:\\?["'])?[ \t]*[:=][ \t]*\\")`+inEscaped,
	`(?i)(`+named+`["']?[ \t]*[:=][ \t]*")`+inQuotes,
	`(?i)(`+named+`["']?[ \t]*[:=][ \t]*')[^'\n]+`,
	`(?im)(^[ \t+-]*`+more+named+`:[ \t]+)[^\s"'|>{\[&*][^\n]*`, // in YAML, to the line's end
	`(?i)(`+named+`\\?["']?[ \t]*[:=][ \t]*)[^\s"',}\\{\[][^\s"',}\\&]*`,
	// The value next to a name, as in the environment of a container.
	`(?i)(\bname\\":\s*\\"`+more+named+`\\",\s*\\"value\\":\s*\\")`+inEscaped,
	`(?i)(\bname["']?:\s*["']?`+more+named+`["']?\s*,?\s*["']?value["']?:\s*")`+inQuotes,
	`(?i)(\bname:\s*["']?`+more+named+`["']?\s*,?[\s+-]*value:\s*)[^\s"',}][^\n,}]*`, // also in a diff
	// The argument after a flag.
	`(?im)((?:^|[\s"'\[,])--?`+more+named+`\\?["']?,?\s+(?:- )?\\?["']?)[^\s"',\\\[-][^\s"',\\]*`,
)

// A text with manifests of Secrets has all data masked.
var (
	secretKind = regexp.MustCompile(`\bkind\\?["']?:\s*\\?["']?Secret\b`)
	secretData = compile(
		`(\b(?:data|stringData)\\?["']?:\s*\{)(?:[^{}"\\]|\\.|"(?:[^"\\]|\\.)*")+(\})`,
		`(?m)(^[ \t]*(?:data|stringData):[ \t]*\n)(?:[ \t]+[^\n]*(?:\n|\z))+`,
	)
)

func compile(forms ...string) (list []*regexp.Regexp) {
	for _, f := range forms {
		list = append(list, regexp.MustCompile(f))
	}
	return list
}

// Masker masks known values, and what looks like a secret.
type Masker struct{ known *strings.Replacer }

// New returns a Masker of values, as they are, in JSON and in base64. Values of less than 8 bytes are not looked for. Of a value of many
// lines each line is, if it is as long as two such values and has no blank: a log has such a line after its own prefix.
func New(values []string) Masker {
	var all []string
	add := func(v string) {
		if len(v) < shortest {
			return
		}
		quoted, _ := json.Marshal(v) // a string can be
		all = append(all, v, strings.Trim(string(quoted), `"`), base64.StdEncoding.EncodeToString([]byte(v)), base64.RawURLEncoding.EncodeToString([]byte(v)))
	}
	for _, v := range values {
		add(v)
		add(strings.TrimSpace(v))
		for line := range strings.Lines(v) {
			if line = strings.TrimSpace(line); len(line) >= 2*shortest && !strings.ContainsAny(line, " \t") {
				add(line)
			}
		}
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // else the beginning of a longer one would leave its end
	var pairs []string
	for _, v := range all {
		pairs = append(pairs, v, Masked)
	}
	return Masker{strings.NewReplacer(pairs...)}
}

// Text returns text without secrets.
func (m Masker) Text(text string) string { return likely(m.known.Replace(text)) }

// lines is a JSON string of several lines.
var lines = regexp.MustCompile(`"(?:[^"\\\n]|\\.)*\\n(?:[^"\\\n]|\\.)*"`)

// likely masks what looks like a secret. Evidence has YAML and diffs as JSON strings, which are masked as what they are.
func likely(text string) string {
	text = lines.ReplaceAllStringFunc(text, func(quoted string) string {
		var inner string
		if json.Unmarshal([]byte(quoted), &inner) != nil {
			return quoted
		}
		var out strings.Builder
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		if e.Encode(likely(inner)) != nil {
			return quoted
		}
		return strings.TrimSpace(out.String())
	})
	if secretKind.MatchString(text) {
		text = replace(secretData, text)
	}
	return replace(forms, text)
}

func replace(forms []*regexp.Regexp, text string) string {
	for _, form := range forms {
		text = form.ReplaceAllString(text, "${1}"+Masked+"${2}")
	}
	return text
}

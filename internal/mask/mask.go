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
	flag  = `(?:^|[\s"'\[,])--?` + more + named
	apart = `(?:\\?["'],\s*|\\?["']?,?[ \t]+)` // between a flag and its argument
	item  = `["']?[ \t]*\r?\n[ \t+-]*- +`      // between them in a list of YAML, also in a diff
	// Up to the quote that ends a JSON string, one in a JSON string, and one of YAML.
	inQuotes  = `(?:[^"\\\n]|\\.)+`
	inEscaped = `(?:[^\\"]|\\{2,}.|\\[^"\\])+`
	inSingle  = `(?:[^'\n]|'')+`
)

// privateKeys are the only forms of any number of lines.
var privateKeys = compile(
	`(?s)-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\z)`,
	`(?:[A-Za-z0-9+/=]{16,}(?:\s|\\n)+)+-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----`, // the end of one, as a log's tail has it
)

// family is forms of secrets that have one of its words in them, in lower case. A form takes far longer than a look for a word.
type family struct {
	words  []string
	blocks []*regexp.Regexp // see maskBlocks
	forms  []*regexp.Regexp // the first group, if any, stays, and so does the second
}

// families are what secrets look like, whoever made them.
var families = []family{
	{
		words: []string{"ls0tls1crudjtib", "eyj", "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-", "akia", "asia", "xox", "aiza", "hf_", "npm_", "sk-"},
		forms: compile(
			`\bLS0tLS1CRUdJTiB[A-CE-Z][A-Za-z0-9+/=]+`,                               // a private key in base64; in that place a certificate has a D
			`\beyJ[\w-]+\.[\w-]+\.[\w-]+`,                                            // a JSON web token
			`\b(?:gh[oprsu]_|github_pat_|glpat-|AKIA|ASIA|xox[a-z]-|AIza)[\w-]{10,}`, // of GitHub, GitLab, AWS, Slack and Google
			`\b(?:hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,})`,                         // of Hugging Face and npm
			`\bsk-[\w-]*[A-Za-z0-9]{20,}[\w-]*`,                                      // of OpenAI; a pod's name has shorter parts
		),
	},
	{
		words: []string{"auth", "bearer ", "basic ", "cookie"},
		forms: compile(
			`(?i)(\bauthorization\\?["']?[:=] *\\?["']?(?:(?:bearer|basic|token|digest) +)?)[^\s"',\\\[]+`, // an Authorization header
			`(?i)(\b(?:bearer|basic) )[A-Za-z0-9+/=._~-]{8,}`,
			`(?i)(\bcookie\\?["']?: *\\?["']?)[^\s"'\\][^"'\n\\]*`,
			`(\bauth\\?":\s*\\?")[A-Za-z0-9+/=]{8,}`, // in Docker's configuration
		),
	},
	{
		words: []string{"//"},
		forms: compile(
			// A URL's password. A list of addresses has "," or ";" after a port.
			`(`+user+`:)(?:\d+|\d*[^/\s"',;\d][^/\s"']*)(@)`,
			`(`+user+`:)\d*[^/\s"',;\d][^\s"']*(@)`, // the same with a slash in it; a port has digits only
			`(://)[^/\s:@"'\[,;]{16,}(@)`,           // a token in place of a user
			`(//hooks\.slack\.com/services/)[^\s"'\\]+`,
		),
	},
	{
		words: []string{"sig=", "key=", "auth="},
		forms: compile(`(?i)([?&](?:[\w-]*sig|key|auth)=)[^&\s"'\\]+`),
	},
	{
		words: []string{"pass", "pwd", "token", "secret", "credential", "signature", "-key", "_key", "apikey", "accesskey", "privatekey"},
		blocks: compile(
			// The value of a name, and the value next to a name, as in the environment of a container. One in quotes that end on its line is below.
			`(?im)^([ +-]?[ \t]*(?:- +)*)(`+more+named+`:)[ \t]+(?:[^\s"'{\[#][^\n]*|"(?:[^"\\\n]|\\[^\n])*\\?|'(?:[^'\n]|'')*)(?:\n|\z)`,
			`(?im)\bname:[ \t]*["']?`+more+named+`["']?[ \t]*(?:#[^\n]*)?\r?\n([ +-]?[ \t]*)(value:)[^\n]*(?:\n|\z)`,
		),
		forms: compile(
			// The value of a name.
			`(?i)(`+named+`(?:\\?["'])?[ \t]*[:=][ \t]*\\")`+inEscaped,
			`(?i)(`+named+`["']?[ \t]*[:=][ \t]*")`+inQuotes,
			`(?i)(`+named+`["']?[ \t]*[:=][ \t]*')`+inSingle,
			`(?i)(`+named+`\\?["']?[ \t]*[:=][ \t]*)[^\s"',}\\{\[][^\s"',}\\&]*`,
			// The value next to a name.
			`(?i)(\bname\\":\s*\\"`+more+named+`\\",\s*\\"value\\":\s*\\")`+inEscaped,
			`(?i)(\bname["']?:\s*["']?`+more+named+`["']?\s*,?\s*["']?value["']?:\s*")`+inQuotes,
			`(?i)(\bname:\s*["']?`+more+named+`["']?\s*,?\s*value:\s*')`+inSingle,
			`(?i)(\bname:\s*["']?`+more+named+`["']?\s*,?\s*value:\s*)[^\s"',}][^\n,}]*`,
			// The argument after a flag.
			`(?im)(`+flag+`\\",\s*\\")`+inEscaped,
			`(?im)(`+flag+apart+`")`+inQuotes,
			`(?im)(`+flag+apart+`')`+inSingle,
			`(?im)(`+flag+apart+`\\?["']?)[^\s"',\\\[-][^\s"',\\]*`,
			`(?im)(`+flag+item+`)[^\s-][^\n]*`,
			`(?im)(`+flag+`["']?[ \t]*\r?\n-[ \t]*- [^\n]*\n\+[ \t]*- +)[^\s-][^\n]*`, // what a diff has in its place
		),
	},
}

// blockHead is what a line has that may be a head of the blocks above.
var blockHead = regexp.MustCompile(`(?i)` + named + `:[ \t]|\bname:[ \t]*["']?` + more + named)

// A text with manifests of Secrets has all data masked.
var (
	secretKind = regexp.MustCompile(`kind\\?["']?:\s*\\?["']?Secret\b`)
	secretFlow = compile(`(\b(?:data|stringData)\\?["']?:\s*\{)(?:[^{}"\\]|\\.|"(?:[^"\\]|\\.)*")+(\})`)
	secretData = regexp.MustCompile(`(?m)^([ +-]?[ \t]*(?:- +)*)(["']?(?:data|stringData)["']?:)[ \t]*(?:[#&!][^\n]*)?\r?\n`)
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
		text = maskBlocks(secretData, replace(secretFlow, text))
	}
	if strings.Contains(text, "PRIVATE KEY") {
		text = replace(privateKeys, text)
	}
	return byLines(text)
}

// byLines masks what the families look like, near the lines that have one of their words.
func byLines(text string) string {
	hasWord := func(lower string) func(family) bool {
		return func(f family) bool {
			return slices.ContainsFunc(f.words, func(word string) bool { return strings.Contains(lower, word) })
		}
	}
	var out strings.Builder
	all := strings.SplitAfter(text, "\n")
	for i := 0; i < len(all); {
		end, after, depth := i, 0, len(text)
		for ; end < len(all); end++ { // a value can be in the next two lines, which a diff has, and in all that are indented more
			in := indent(all[end])
			if slices.ContainsFunc(families, hasWord(strings.ToLower(all[end]))) {
				after = 2
				if in < depth && blockHead.MatchString(all[end]) {
					depth = in
				}
			} else if end == i {
				break
			} else if in < len(strings.TrimRight(all[end], "\r\n")) && in <= depth {
				if after == 0 {
					break
				}
				after--
			}
		}
		near := strings.Join(all[i:end], "")
		if end == i {
			near, end = "", i+1
			out.WriteString(all[i])
		}
		lower := strings.ToLower(near)
		for _, f := range families {
			if hasWord(lower)(f) {
				for _, head := range f.blocks {
					near = maskBlocks(head, near)
				}
				near = replace(f.forms, near)
			}
		}
		out.WriteString(near)
		i = end
	}
	return out.String()
}

// indent returns how many bytes come before the text of a line. The sign of a diff's line is one of them.
func indent(line string) int {
	sign := 0
	if strings.HasPrefix(line, "+") || strings.HasPrefix(line, "-") {
		sign = 1
	}
	return len(line) - len(strings.TrimLeft(line[sign:], " \t"))
}

// maskBlocks masks the values of YAML's keys. head matches a key's line with its end; its groups are what comes before the key, and
// the key. The value is the rest of the line and all lines after it that are empty or indented more than the key. In a diff, the
// value that takes its place may follow.
func maskBlocks(head *regexp.Regexp, text string) string {
	var out strings.Builder
	done := 0
	for _, at := range head.FindAllStringSubmatchIndex(text, -1) {
		if at[0] < done {
			continue // it is in the value before
		}
		key, depth, end := text[at[2]:at[5]], at[3]-at[2], at[1]
		empty := strings.TrimSpace(text[at[5]:end]) == ""
		out.WriteString(text[done:at[5]])
		value := " " + Masked
		for next := end; next < len(text); {
			line, _, _ := strings.Cut(text[next:], "\n")
			next = min(next+len(line)+1, len(text))
			line = strings.TrimRight(line, "\r")
			in := indent(line)
			if in == len(line) {
				continue
			}
			if key[0] == '-' && strings.HasPrefix(line, "+"+key[1:]) {
				value += "\n+" + key[1:] + " " + Masked
			} else if in <= depth || depth == 0 && strings.ContainsAny(line[:1], "+-") { // a diff's keys have a sign or a blank
				break
			}
			end, empty = next, false
		}
		if empty {
			value = text[at[5]:end]
		} else if text[end-1] == '\n' {
			value += "\n"
		}
		out.WriteString(value)
		done = end
	}
	return out.String() + text[done:]
}

func replace(forms []*regexp.Regexp, text string) string {
	for _, form := range forms {
		text = form.ReplaceAllString(text, "${1}"+Masked+"${2}")
	}
	return text
}

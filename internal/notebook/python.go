package notebook

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is a piece of a line of Python.
// https://docs.python.org/3.11/reference/lexical_analysis.html
type token struct {
	kind      kind
	text      string
	line, col int // where it begins: lines from 0, columns in bytes from 0
}

type kind int

const (
	aName kind = iota
	aNumber
	aString // of any form, also an f-string
	anOperator
	aComment
	anEnd    // of a logical line
	aStray   // a character that begins no token, such as ? or a quote that its line does not close
	unclosed // three quotes that nothing closes, and all after them
)

// is reports whether the token is this operator, name or stray character.
func (t token) is(text string) bool { return t.text == text && t.kind != aComment }

// operators are the operators of more than one character, the longest first.
var operators = []string{
	"**=", "//=", ">>=", "<<=", "...", "!=", "%=", "//", "/=", "==", "<=", ">=", "->", "+=", "-=", "*=", "**", "@=", "&=", "|=", "^=", ">>", "<<", ":=", "<>",
}

// tokens splits code into its logical lines. Each ends with a token end, unless
// the code ends within it: in brackets, or in a string of three quotes.
//
// It goes on where Python's own tokenizer does, since lines of Jupyter's are in
// between: https://docs.python.org/3.11/library/tokenize.html
func tokens(code string) (lines [][]token) {
	var now []token
	line, start, brackets := 0, 0, 0
	newLine := func(at int) { line, start = line+1, at }
	for at := 0; at < len(code); {
		rest := code[at:]
		t := token{line: line, col: at - start}
		r, size := utf8.DecodeRuneInString(rest)
		n, aText := 0, quoted(rest)
		switch {
		case r == ' ' || r == '\t' || r == '\f':
			at++
			continue
		case r == '\n':
			at++
			if brackets == 0 {
				t.kind = anEnd
				lines, now = append(lines, append(now, t)), nil
			}
			newLine(at)
			continue
		case strings.HasPrefix(rest, "\\\n"):
			at += 2
			newLine(at)
			continue
		case r == '#':
			t.kind, n = aComment, strings.IndexByte(rest+"\n", '\n')
		case aText > 0:
			t.kind, n = aString, aText
		case aText < 0:
			t.kind, t.text = unclosed, rest
			return append(lines, append(now, t))
		case isName(r, 0):
			n = strings.IndexFunc(rest, func(r rune) bool { return !isName(r, 1) })
			if n < 0 {
				n = len(rest)
			}
		case r >= '0' && r <= '9', r == '.' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9':
			t.kind, n = aNumber, numeral(rest)
		case strings.ContainsRune("+-*/%@&|^~<>()[]{},:.;=", r), strings.HasPrefix(rest, "!="):
			t.kind, n = anOperator, 1
			if i := slices.IndexFunc(operators, func(o string) bool { return strings.HasPrefix(rest, o) }); i >= 0 {
				n = len(operators[i])
			}
		default:
			t.kind, n = aStray, size
		}
		t.text = rest[:n]
		if t.kind == anOperator {
			switch t.text {
			case "(", "[", "{":
				brackets++
			case ")", "]", "}":
				brackets = max(0, brackets-1)
			}
		}
		now, at = append(now, t), at+n
		if t.kind == aString {
			if i := strings.LastIndexByte(t.text, '\n'); i >= 0 {
				line, start = line+strings.Count(t.text, "\n"), at-len(t.text)+i+1
			}
		}
	}
	if now != nil {
		lines = append(lines, now)
	}
	return lines
}

// quoted returns the length of the string that code begins with, including its
// prefix. It returns 0 if there is no string, or if the line does not close it, and
// -1 if nothing closes its three quotes.
func quoted(code string) int {
	prefix := strings.IndexAny(code[:min(3, len(code))], `'"`)
	if prefix < 0 || prefix > 0 && !slices.Contains([]string{"r", "u", "b", "f", "br", "rb", "fr", "rf"}, strings.ToLower(code[:prefix])) {
		return 0
	}
	quote := code[prefix : prefix+1]
	if three := strings.Repeat(quote, 3); strings.HasPrefix(code[prefix:], three) {
		quote = three
	}
	for i := prefix + len(quote); i < len(code); i++ {
		switch c := code[i]; {
		case c == '\\':
			i++
		case c == '\n' && len(quote) == 1:
			return 0
		case c == quote[0] && strings.HasPrefix(code[i:], quote):
			return i + len(quote)
		}
	}
	if len(quote) == 3 {
		return -1
	}
	return 0
}

// numeral returns the length of the number that code begins with.
func numeral(code string) int {
	for i := 1; i < len(code); i++ {
		c := code[i]
		exponent := (c == '+' || c == '-') && (code[i-1] == 'e' || code[i-1] == 'E') && !strings.HasPrefix(strings.ToLower(code), "0x")
		if !exponent && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return i
		}
	}
	return len(code)
}

// isName reports whether a name can have r, at its beginning (0) or later.
// https://docs.python.org/3.11/reference/lexical_analysis.html#identifiers
func isName(r rune, at int) bool {
	if r == '_' || unicode.In(r, unicode.L, unicode.Nl, unicode.Other_ID_Start) {
		return true
	}
	return at > 0 && unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc, unicode.Other_ID_Continue)
}

package notebook

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// flaw is an error in a line of a cell.
type flaw struct {
	line int // counted from 1; 0 is the whole cell
	why  string
}

func (f *flaw) Error() string {
	if f.line == 0 {
		return f.why
	}
	return fmt.Sprintf("line %d: %s", f.line, f.why)
}

func flawAt(line int, format string, args ...any) error {
	return &flaw{line + 1, fmt.Sprintf(format, args...)}
}

// The magics that a step runs. run.py has the same lists; a test compares them.
// https://ipython.readthedocs.io/en/8.31.0/interactive/magics.html
var (
	lineMagics = []string{
		"aimport", "autoawait", "autocall", "automagic", "autoreload", "autosave", "cat", "cd", "colors", "config", "cp", "doctest_mode", "echo", "env", "ll", "load_ext", "ls",
		"matplotlib", "mkdir", "mv", "pdb", "pip", "pprint", "precision", "pwd", "reload_ext", "rm", "rmdir", "run", "set_env", "sx", "system", "time", "timeit", "xmode",
	}
	cellMagics = []string{
		"!", "HTML", "SVG", "bash", "capture", "file", "html", "javascript", "js", "latex", "markdown", "python", "python3", "script", "sh", "shell", "svg", "sx", "system",
		"time", "timeit", "writefile",
	}
	// scriptMagics are the cell magics that give their body to a program.
	scriptMagics = []string{"bash", "python", "python3", "script", "sh", "shell"}
	// pythonMagics are the cell magics whose body is Python.
	pythonMagics = []string{"capture", "time", "timeit"}
)

// refused has IPython's other magics, by the reason why a step cannot run them.
var refused = map[string][]string{
	"needs a person at a terminal": {"clear", "connect_info", "debug", "ed", "edit", "gui", "less", "load", "loadpy", "man", "more", "notebook", "page", "pastebin",
		"qtconsole", "quickref", "recall", "rep", "rerun", "tb"},
	"needs the session of a Jupyter server, and a step has none": {"alias", "alias_magic", "bookmark", "code_wrap", "dhist", "dirs", "hist", "history", "killbgscripts",
		"logoff", "logon", "logstart", "logstate", "logstop", "lsmagic", "macro", "magic", "popd", "pushd", "rehashx", "reset", "reset_selective", "save", "store",
		"unalias", "who", "who_ls", "whos", "xdel"},
	"asks for help, which only Jupyter can show":                  {"pdef", "pdoc", "pfile", "pinfo", "pinfo2", "psearch", "psource", "pycat"},
	"needs a program that the image of a step lacks":              {"conda", "mamba", "micromamba", "perl", "pylab", "pypy", "python2", "ruby", "uv"},
	"measures with IPython's profiler, and a step has no IPython": {"prun"},
	"needs an extension of IPython, and a step has none":          {"unload_ext"},
}

const remedy = `take it out, or tag the cell "skip"`

// refuse returns an error if a step cannot run a magic. cell says that it is a cell
// magic; whole is the line that the error shows.
func refuse(line int, whole, magic, args string, cell bool) error {
	runs := lineMagics
	if cell {
		runs = cellMagics
	}
	args = strings.TrimSpace(args)
	why := "is not known to a step, which is a Python script without IPython"
	for reason, names := range refused {
		if slices.Contains(names, magic) {
			why = reason
		}
	}
	switch {
	case strings.HasPrefix(magic, "%"):
		why = "must be the first line of its cell"
	case !slices.Contains(runs, magic):
	case (magic == "load_ext" || magic == "reload_ext") && args != "autoreload":
		why = "loads an extension of IPython, and a step has none"
	case magic == "run" && (!runnable.MatchString(args) || otherNotebook.MatchString(args)):
		why = "must name a Python file (.py), with no option of %run but -i"
	case cell && slices.Contains(scriptMagics, magic) && slices.ContainsFunc(strings.Fields(args), inBackground):
		why = "must not have the options --bg and --proc: a step waits for its script"
	case magic == "script" && !programmed.MatchString(args):
		why = "must name a program"
	case cell && magic == "time" && args != "" && args != "--no-raise-error":
		why = "must have the code to time in the lines below"
	default:
		return nil
	}
	return flawAt(line, "%q %s: %s", shown(whole), why, remedy)
}

// What %run takes: a file, with .py or without it.
var (
	runnable      = regexp.MustCompile(`^(-i\s+)?("[^"]+"|'[^']+'|[^\s"'-]\S*)(\s|$)`)
	otherNotebook = regexp.MustCompile(`^(-i\s+)?("[^"]+\.ipy(nb)?"|'[^']+\.ipy(nb)?'|\S+\.ipy(nb)?)(\s|$)`)
)

// programmed matches the arguments of %%script that name a program.
var programmed = regexp.MustCompile(`^((--no-raise-error|--(out|err)[ =]\S+)\s+)*[^\s-]`)

// inBackground reports whether an option lets a script run on while the notebook does.
func inBackground(option string) bool { return option == "--bg" || strings.HasPrefix(option, "--proc") }

// shown is a line as an error quotes it.
func shown(line string) string {
	line, _, _ = strings.Cut(strings.TrimSpace(line), "\n")
	if r := []rune(line); len(r) > 60 {
		return string(r[:57]) + "..."
	}
	return line
}

// Prompts that were copied with the code.
var (
	classicFirst  = regexp.MustCompile(`^>>>( |$)`)
	classicPrompt = regexp.MustCompile(`^(>>>|\.\.\.)( |$)`)
	prompt        = regexp.MustCompile(`^(((\[nav\]|\[ins\])? )?In \[\d+\]: |\s*\.{3,}: ?)`)
)

// maxLines is the most commands that IPython translates in one cell.
const maxLines = 500

// python translates a cell to Python, line for line. Each line that only Jupyter
// understands becomes a call of get_ipython, which run.py implements. It finds these
// lines as IPython does: never in a string, a comment or brackets, nor where a line
// continues.
// https://github.com/ipython/ipython/blob/8.31.0/IPython/core/inputtransformer2.py
//
// taken reports whether the notebook uses a name itself: then a cell with that name
// is not a magic without its %.
//
// Errors are of type *flaw: a line that a step cannot run, a quote or bracket
// without its partner, a character that Python does not have.
func python(code string, taken func(name string) bool) (string, error) {
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(code), "\n")
	for len(lines) > 0 && strings.TrimSpace(lines[len(lines)-1]) == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 {
		return "", nil
	}
	first := slices.IndexFunc(lines, func(line string) bool { return strings.TrimSpace(line) != "" })
	dedent(lines[first:])
	strip(lines[first:], classicFirst, classicPrompt) // "..." at the beginning is a value of Python's
	strip(lines[first:], prompt, prompt)
	if head := lines[first]; strings.HasPrefix(head, "%%") && !magicHelp.MatchString(head) {
		return cellMagic(lines, first, taken)
	}
	for changes := 0; ; changes++ {
		all := tokens(strings.Join(lines, "\n") + "\n")
		c := find(all)
		if c == nil {
			break
		}
		if changes == maxLines {
			return "", flawAt(c.line, "a cell must have at most %d lines for Jupyter", maxLines)
		}
		if err := c.replace(lines, taken); err != nil {
			return "", err
		}
	}
	if first == len(lines)-1 {
		if err := automagic(lines, first, taken); err != nil {
			return "", err
		}
	}
	code = strings.Join(lines, "\n")
	return code, judge(code)
}

var magicHelp = regexp.MustCompile(`^%%\w+\?`)

// dedent takes the white space that the first line begins with from all lines.
func dedent(lines []string) {
	space := lines[0][:len(lines[0])-len(strings.TrimLeft(lines[0], " \t"))]
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, space)
	}
}

// strip takes a prompt from all lines, if the first one has it, or the second one has one that may come later.
func strip(lines []string, first, each *regexp.Regexp) {
	if !first.MatchString(lines[0]) && (len(lines) < 2 || !each.MatchString(lines[1])) {
		return
	}
	for i, line := range lines {
		lines[i] = line[len(each.FindString(line)):]
	}
}

// cellMagic makes a call of a cell that is one magic's.
func cellMagic(lines []string, first int, taken func(string) bool) (string, error) {
	magic, args, _ := strings.Cut(strings.TrimSpace(lines[first])[2:], " ")
	if err := refuse(first, lines[first], magic, args, true); err != nil {
		return "", err
	}
	body := strings.Join(lines[first+1:], "\n")
	if slices.Contains(pythonMagics, magic) {
		// With as many lines before it as it has in its cell.
		var err error
		if body, err = python(strings.Repeat("\n", first+1)+body, taken); err != nil {
			return "", err
		}
		if magic == "timeit" { // its line may have a statement, too
			if args, err = inLine(first, args, taken); err != nil {
				return "", err
			}
		}
	}
	return strings.Repeat("\n", first) + fmt.Sprintf("get_ipython().run_cell_magic(%s, %s, %s)", strconv.Quote(magic), strconv.Quote(args), strconv.Quote(body)), nil
}

// inLine translates the Python in a magic's arguments. Options before it stay.
func inLine(line int, args string, taken func(string) bool) (string, error) {
	given := options.FindString(args)
	code, err := python(args[len(given):], taken)
	if err != nil {
		return "", flawAt(line, "%s", err.(*flaw).why)
	}
	return given + code, nil
}

// options of %time and %timeit.
var options = regexp.MustCompile(`^(\s*-(-no-raise-error|[nr]\s*\d+|[tcqpo]+\d*)(\s|$))*`)

// command is a place in a cell that IPython would translate.
type command struct {
	line, col int  // where it begins
	assigned  bool // it is the right side of an assignment
	help      bool // it ends with ?
}

// find returns the first command, or nil.
func find(lines [][]token) (first *command) {
	better := func(t token, assigned, help bool) {
		if c := (command{t.line, t.col, assigned, help}); first == nil || cmp.Or(c.line-first.line, c.col-first.col) < 0 {
			first = &c
		}
	}
	for _, l := range lines {
		if n := len(l) - 2; n > 0 && l[n].is("?") && l[n+1].kind == anEnd && helped.MatchString(lineUpTo(l)) {
			better(l[0], false, true)
		}
		if i := assignment(l); i >= 0 && i+2 < len(l) && (l[i+1].is("!") || l[i+1].is("%") && l[i+2].kind == aName) {
			better(l[i+1], true, false)
		}
		if slices.Contains([]string{"!", "?", "%", ",", ";", "/"}, l[0].text) {
			better(l[0], false, false)
		}
		if first != nil {
			return first // a bracket in a command would hide the lines after it
		}
	}
	return nil
}

// helped matches a line that ends with a name and ?. IPython runs `!ls ?`, and
// shows help for `!ls x?`.
var helped = regexp.MustCompile(`[\pL_*][\pL\pN_*]*(\.[\pL_*][\pL\pN_*]*|\[-?[0-9]+\])*\?\??$`)

// lineUpTo returns the text of a logical line, for helped.
func lineUpTo(l []token) string {
	var s strings.Builder
	for i, t := range l[:len(l)-1] {
		if i > 0 && (t.line != l[i-1].line || t.col != l[i-1].col+len(l[i-1].text)) {
			s.WriteByte(' ')
		}
		s.WriteString(t.text)
	}
	if l[len(l)-1].col != l[len(l)-2].col+1 {
		s.WriteByte(' ')
	}
	return s.String()
}

// assignment is the place of the first = that is in no brackets, or -1.
func assignment(line []token) int {
	depth := 0
	for i, t := range line {
		switch {
		case t.is("=") && t.kind == anOperator && depth == 0:
			return i
		case t.is("(") || t.is("[") || t.is("{"):
			depth++
		case t.is(")") || t.is("]") || t.is("}"):
			depth = max(0, depth-1)
		}
	}
	return -1
}

// replace makes Python of the command, in place.
func (c *command) replace(lines []string, taken func(string) bool) error {
	whole := lines[c.line]
	if c.help {
		return flawAt(c.line, "%q asks for help, which only Jupyter can show: %s", shown(whole), remedy)
	}
	// A command goes on where its line ends with a backslash.
	last := c.line
	for strings.HasSuffix(lines[last], "\\") && last < len(lines)-1 {
		last++
	}
	parts := append([]string{lines[c.line][c.col:]}, lines[c.line+1:last+1]...)
	for i := range parts {
		parts[i] = strings.TrimRight(parts[i], " \t\f")
		if i < len(parts)-1 {
			parts[i] = strings.TrimSuffix(parts[i], "\\")
		}
	}
	command := strings.Join(parts, " ")
	call, err := c.call(command, whole, taken)
	if err != nil {
		return err
	}
	lines[c.line] = whole[:c.col] + call
	for i := c.line + 1; i <= last; i++ {
		lines[i] = ""
	}
	return nil
}

// call returns the Python that a command stands for.
func (c *command) call(command, whole string, taken func(string) bool) (string, error) {
	escape, content := command[:1], command[1:]
	name, args, _ := strings.Cut(content, " ")
	switch escape {
	case "!":
		method := "system"
		if doubled, is := strings.CutPrefix(content, "!"); c.assigned || is {
			method = "getoutput"
			if !c.assigned {
				content = doubled
			}
		}
		return "get_ipython()." + method + "(" + strconv.Quote(content) + ")", nil
	case "?":
		return "", flawAt(c.line, "%q asks for help, which only Jupyter can show: %s", shown(whole), remedy)
	case "%":
		return magicCall(c.line, whole, name, args, taken)
	}
	words := strings.Fields(args)
	switch {
	case escape == "/" && name == "":
		return "", flawAt(c.line, "%q must name a function after %s", shown(whole), escape)
	case escape == ",":
		return name + `("` + strings.Join(words, `", "`) + `")`, nil
	case escape == ";":
		return name + `("` + args + `")`, nil
	}
	return name + "(" + strings.Join(words, ", ") + ")", nil
}

// magicCall returns the call of a line magic.
func magicCall(line int, whole, magic, args string, taken func(string) bool) (string, error) {
	err := refuse(line, whole, magic, args, false)
	if err == nil && (magic == "time" || magic == "timeit") { // the timed statement may be a command itself
		args, err = inLine(line, args, taken)
	}
	return "get_ipython().run_line_magic(" + strconv.Quote(magic) + ", " + strconv.Quote(args) + ")", err
}

// bare is a line that may be a magic without its %.
var bare = regexp.MustCompile(`^([A-Za-z_]\w*)(?:[ \t]+(.*))?$`)

// automagic translates a cell whose only line is a magic without its %, as IPython
// does if the notebook does not use the name itself.
func automagic(lines []string, at int, taken func(string) bool) error {
	m := bare.FindStringSubmatch(strings.TrimRight(lines[at], " \t"))
	if m == nil || taken(m[1]) || m[2] != "" && (strings.Contains("!=()<>,+*/%^&|:;", m[2][:1]) || slices.Contains(joining, strings.Fields(m[2])[0])) {
		return nil
	}
	known := slices.Contains(lineMagics, m[1])
	for _, names := range refused {
		known = known || slices.Contains(names, m[1])
	}
	if !known {
		return nil
	}
	call, err := magicCall(at, lines[at], m[1], m[2], taken)
	if err == nil {
		lines[at] = call
	}
	return err
}

// joining are the words that can follow a name in Python.
var joining = []string{"if", "is", "in", "not", "and", "or"}

// judge finds the errors that need no parser: characters that Python does not have,
// quotes and brackets without their partner. It also judges the magics that the code
// calls by IPython's functions.
func judge(code string) error {
	var open []token
	for _, line := range tokens(code + "\n") {
		for i, t := range line {
			switch {
			case t.kind == unclosed, t.kind == aStray && (t.text == "'" || t.text == `"`):
				return flawAt(t.line, "%q has a quote that nothing closes", shown(lineOf(code, t.line)))
			case t.kind == aStray:
				return flawAt(t.line, "%q is neither Python nor a line of Jupyter's: %q is out of place", shown(lineOf(code, t.line)), t.text)
			case t.kind == anOperator && strings.Contains("([{", t.text):
				open = append(open, t)
			case t.kind == anOperator && strings.Contains(")]}", t.text):
				if n := len(open) - 1; n < 0 || open[n].text+t.text != "()" && open[n].text+t.text != "[]" && open[n].text+t.text != "{}" {
					return flawAt(t.line, "%q closes a bracket that is not open: %q", shown(lineOf(code, t.line)), t.text)
				}
				open = open[:len(open)-1]
			case t.is("get_ipython") && t.kind == aName:
				if err := called(code, line[i:]); err != nil {
					return err
				}
			}
		}
	}
	if len(open) > 0 {
		t := open[len(open)-1]
		return flawAt(t.line, "%q opens a bracket that nothing closes: %q", shown(lineOf(code, t.line)), t.text)
	}
	return nil
}

func lineOf(code string, line int) string { return strings.Split(code, "\n")[line] }

// called judges a call such as get_ipython().run_line_magic("NAME", ...), if its
// first argument is a string.
func called(code string, t []token) error {
	if len(t) < 7 || !t[1].is("(") || !t[2].is(")") || !t[3].is(".") || !t[5].is("(") || t[6].kind != aString {
		return nil
	}
	magic := strings.Trim(t[6].text, `'"`)
	args := ""
	if len(t) > 8 && t[8].kind == aString {
		args = strings.Trim(t[8].text, `'"`)
	}
	switch t[4].text {
	case "magic":
		magic, args, _ = strings.Cut(strings.TrimPrefix(magic, "%"), " ")
		fallthrough
	case "run_line_magic":
		return refuse(t[0].line, lineOf(code, t[0].line), magic, args, false)
	case "run_cell_magic":
		return refuse(t[0].line, lineOf(code, t[0].line), magic, args, true)
	}
	return nil
}

package notebook

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// magics are IPython's line magics: a cell with one of them and no other line needs
// no %. sc is not among them: as a line it is Databricks' SparkContext. run.py judges
// which of them a step can run.
// https://ipython.readthedocs.io/en/8.31.0/interactive/magics.html
var magics = strings.Fields(`
	alias alias_magic aimport autoawait autocall automagic autoreload autosave bookmark cat cd clear code_wrap colors conda config connect_info cp debug dhist dirs
	doctest_mode ed edit env gui hist history killbgscripts ldir less lf lk ll load load_ext loadpy logoff logon logstart logstate logstop ls lsmagic lx macro magic
	mamba man matplotlib micromamba mkdir more mv notebook page pastebin pdb pdef pdoc pfile pinfo pinfo2 pip popd pprint precision prun psearch psource pushd pwd
	pycat pylab qtconsole quickref recall rehashx reload_ext rep rerun reset reset_selective rm rmdir run save set_env store subshell sx system tb time timeit unalias
	unload_ext uv who who_ls whos xdel xmode`)

// pythonMagics are the cell magics whose body is Python.
var pythonMagics = []string{"capture", "time", "timeit"}

// cellMagics are IPython's cell magics, and Colab's shell.
var cellMagics = strings.Fields(`
	! HTML SVG bash capture code_wrap debug file html javascript js latex markdown perl prun pypy python python2 python3 ruby script sh shell svg sx system time timeit writefile`)

// magicCalls matches the calls of magics, with the line magic's name or the cell magic's.
var magicCalls = regexp.MustCompile(`\brun_(?:line_magic\(\\?["'](\w+)|cell_magic\(\\?["']([^"'\\]+))`)

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

// toPython translates a cell to Python, line for line. Each line that only Jupyter
// understands becomes a call of get_ipython, which run.py implements. It finds these
// lines as IPython does: never in a string, a comment or brackets, nor where a line
// continues.
// https://github.com/ipython/ipython/blob/8.31.0/IPython/core/inputtransformer2.py
//
// taken reports whether the notebook uses a name itself: then a cell with that name
// is not a magic without its %.
//
// It returns an error if the cell has more than maxLines lines for Jupyter.
func toPython(code string, taken func(name string) bool) (string, error) {
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
	for changes := 0; replaceNext(lines, taken); changes++ {
		if changes == maxLines {
			return "", fmt.Errorf("it must have at most %d lines for Jupyter, such as !ls or %%time", maxLines)
		}
	}
	if first == len(lines)-1 {
		automagic(lines, first, taken)
	}
	return strings.Join(lines, "\n"), nil
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
	body := strings.Join(lines[first+1:], "\n")
	if slices.Contains(pythonMagics, magic) {
		// With as many lines before it as it has in its cell.
		var err error
		if body, err = toPython(strings.Repeat("\n", first+1)+body, taken); err != nil {
			return "", err
		}
		if magic == "timeit" { // its line may have a statement, too
			args = inLine(args, taken)
		}
	}
	return strings.Repeat("\n", first) + fmt.Sprintf("get_ipython().run_cell_magic(%s, %s, %s)", strconv.Quote(magic), strconv.Quote(args), strconv.Quote(body)), nil
}

// inLine translates the Python in a magic's arguments. Options before it stay.
func inLine(args string, taken func(string) bool) string {
	given := options.FindString(args)
	code, _ := toPython(args[len(given):], taken) // one line has one command
	return given + code
}

// options of %time and %timeit.
var options = regexp.MustCompile(`^(\s*-(-no-raise-error|[nr]\s*\d+|[tcqpo]+\d*)(\s|$))*`)

// replaceNext makes Python of the first command of a cell that IPython would
// translate, in place. It returns false if the cell has no such command.
func replaceNext(lines []string, taken func(string) bool) bool {
	for _, l := range tokens(strings.Join(lines, "\n") + "\n") {
		at := l[0]
		if n := len(l) - 2; n > 0 && l[n].is("?") && l[n+1].kind == anEnd {
			last := l[n].line
			if m := helped.FindStringSubmatch(strings.Join(lines[at.line:last+1], "\n")[at.col:]); m != nil {
				put(lines, at, last, help(m[1], m[3]))
				return true
			}
		}
		escaped := len(l) > 1 && slices.Contains([]string{"!", "?", "%", ",", ";", "/"}, at.text) && (at.text != "/" || l[1].col == at.col+1 && l[1].kind != anEnd)
		i := -1
		if !escaped {
			i = assignment(l)
			if i < 0 || i+2 >= len(l) || !l[i+1].is("!") && (!l[i+1].is("%") || l[i+2].kind != aName) {
				continue
			}
			at = l[i+1]
		}
		// A command goes on where its line ends with a backslash.
		last := at.line
		for strings.HasSuffix(lines[last], "\\") && last < len(lines)-1 {
			last++
		}
		parts := append([]string{lines[at.line][at.col:]}, lines[at.line+1:last+1]...)
		for i := range parts {
			parts[i] = strings.TrimRight(parts[i], " \t\f")
			if i < len(parts)-1 {
				parts[i] = strings.TrimSuffix(parts[i], "\\")
			}
		}
		put(lines, at, last, call(strings.Join(parts, " "), !escaped, taken))
		return true // a bracket in a command would hide the lines after it
	}
	return false
}

// put replaces what begins at a token and ends with the line last. The lines after
// it keep their numbers.
func put(lines []string, at token, last int, call string) {
	lines[at.line] = lines[at.line][:at.col] + call
	clear(lines[at.line+1 : last+1])
}

// helped matches code that ends with a name and ? or ??. IPython runs `!ls ?`, and
// shows help for `!ls x?`.
var helped = regexp.MustCompile(`(%{0,2}[\pL_*][\pL\pN_*]*(\.[\pL_*][\pL\pN_*]*|\[-?[0-9]+\])*)(\?\??)$`)

// help returns the call for a name with ? or ??.
func help(name, marks string) string {
	magic := "pinfo"
	if marks == "??" {
		magic = "pinfo2"
	} else if strings.Contains(name, "*") {
		magic = "psearch"
	}
	return magicCall(magic, name, nil)
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

// call returns the Python that a command stands for, or the right side of an
// assignment.
func call(command string, assigned bool, taken func(string) bool) string {
	escape, content := command[:1], command[1:]
	name, args, _ := strings.Cut(content, " ")
	words := strings.Fields(args)
	switch escape {
	case "!":
		doubled, is := strings.CutPrefix(content, "!")
		switch {
		case assigned:
			return "get_ipython().getoutput(" + strconv.Quote(content) + ")"
		case is:
			return "get_ipython().getoutput(" + strconv.Quote(doubled) + ")"
		}
		return "get_ipython().system(" + strconv.Quote(content) + ")"
	case "?":
		name := strings.TrimPrefix(content, "?")
		if name == "" {
			return "get_ipython().show_usage()"
		}
		return help(name, command[:len(command)-len(name)])
	case "%":
		return magicCall(name, args, taken)
	case ",":
		return name + `("` + strings.Join(words, `", "`) + `")`
	case ";":
		return name + `("` + args + `")`
	}
	return name + "(" + strings.Join(words, ", ") + ")"
}

// magicCall returns the call of a line magic.
func magicCall(magic, args string, taken func(string) bool) string {
	if magic == "time" || magic == "timeit" { // the timed statement may be a command itself
		args = inLine(args, taken)
	}
	return "get_ipython().run_line_magic(" + strconv.Quote(magic) + ", " + strconv.Quote(args) + ")"
}

// bare is a line that may be a magic without its %.
var bare = regexp.MustCompile(`^([A-Za-z_]\w*)(?:[ \t]+([^=, \t].*))?$`)

// joining are Python's words between two values.
var joining = []string{"and", "for", "if", "in", "is", "not", "or"}

// automagic translates a cell whose only line is a magic without its %, as IPython
// does if the notebook does not use the name itself: also ls *.csv, and exit. With a word after
// it, as in pip install, the line is no Python whoever uses the name.
func automagic(lines []string, at int, taken func(string) bool) {
	line := strings.TrimRight(lines[at], " \t")
	if (line == "exit" || line == "quit") && !taken(line) {
		lines[at] = "raise SystemExit" // the name would then be one that the notebook uses
		return
	}
	m := bare.FindStringSubmatch(line)
	if m == nil || !slices.Contains(magics, m[1]) {
		return
	}
	word := m[2][:len(m[2])-len(strings.TrimLeftFunc(m[2], func(r rune) bool { return isName(r, 0) }))]
	if word != "" && !slices.Contains(joining, word) || !taken(m[1]) {
		lines[at] = magicCall(m[1], m[2], taken)
	}
}

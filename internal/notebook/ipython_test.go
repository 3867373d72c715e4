package notebook

import (
	"errors"
	"strings"
	"testing"
)

// lineCases are cells, and the Python that they become; TestLinesAreJupytersAsUpstreamSays
// asks IPython the same.
var lineCases = []struct {
	code      string
	want      string // "" is the code itself
	refused   string // its error has this
	automagic bool   // IPython finds it later: when it knows the names, or runs the magic around it
	noPython  bool   // IPython leaves it to Python, which refuses it
}{
	// Python, whatever it looks like.
	{code: "a = 7 % 2"},
	{code: "a = (3\n  % 2)"},
	{code: "a = 7 \\\n  % 2"},
	{code: "a = \"\"\"\n!ls\n%done\nwhat?\n\"\"\""},
	{code: "f('''(\n% x''',  # (\n3)"},
	{code: "a = '(' # it's\nb = [1,\n-a]"},
	{code: "a = 'x\\\n%y'"},
	{code: "a != 3\nb = a\\\n!= 3"},
	{code: "# what?\n# !ls\n# %time\nx = 1  # why?"},
	{code: "x = 'who?'\ny = \"!ls\"\nz = f'{x!r:>10}?'"},
	{code: "x = f'''\n{x!r}\n%s?\n''' % 1"},
	{code: "x = rb'\\'?'\ny = R\"\\\"!\"\nz = '\\\\'"},
	{code: "print('%d' % 3, x // 2)\nx /= 2\nx %= 3\nx //= 2"},
	{code: "def f(a, /, b): pass"},
	{code: "d = {'a':\n1,\n'b'\n: 2}\nx = [\n*d\n,\n1]"},
	{code: "x = await f()\nasync for y in z:\n    pass"},
	{code: "if x:\n    y = 1\nelse:\n\ty = 2"},
	{code: "x = 0x1e+1 + 1.5e-3 + .5 + 1_000 + 3j"},
	{code: "π = 3\nähnlich = π % 2"},
	{code: "x: int = 3; y = 2;"},
	{code: "lambda: (yield)\n@dec\ndef f() -> int: ...\nx = a @ b\nif (n := 1): pass"},
	{code: "match x:\n    case [1, *_]: pass"},
	{code: "x = ''''a' 'b?'''"},
	{code: "a = 1 if b else ~c"},
	// Shell.
	{code: "!ls", want: `get_ipython().system("ls")`},
	{code: "!!ls", want: `get_ipython().getoutput("ls")`},
	{code: "x = 1\n  \n!ls -l | grep 'a b' # c", want: "x = 1\n  \n" + `get_ipython().system("ls -l | grep 'a b' # c")`},
	{code: "files = !ls /\nx = len(files)", want: `files = get_ipython().getoutput("ls /")` + "\nx = len(files)"},
	{code: "files=!ls", want: `files=get_ipython().getoutput("ls")`},
	{code: "a, b = !echo 1; echo 2", want: `a, b = get_ipython().getoutput("echo 1; echo 2")`},
	{code: "x[0] = !ls", want: `x[0] = get_ipython().getoutput("ls")`},
	{code: "x.y = !ls {z} $w", want: `x.y = get_ipython().getoutput("ls {z} $w")`},
	{code: "if x:\n    !ls\n    y = !pwd", want: "if x:\n    " + `get_ipython().system("ls")` + "\n    y = " + `get_ipython().getoutput("pwd")`},
	{code: "!echo it's (\nx = 1", want: `get_ipython().system("echo it's (")` + "\nx = 1"},
	{code: "!echo \"a\nx = 1", want: `get_ipython().system("echo \"a")` + "\nx = 1"},
	{code: "!echo '''\nx = 1\n!ls", want: `get_ipython().system("echo '''")` + "\nx = 1\n" + `get_ipython().system("ls")`},
	{code: "!echo a \\\n  b\nx = 1", want: `get_ipython().system("echo a    b")` + "\n\nx = 1"},
	{code: "x = !echo a \\\n  b", want: `x = get_ipython().getoutput("echo a    b")` + "\n"},
	{code: "!ls ?", want: `get_ipython().system("ls ?")`},
	{code: "'''a\nb'''\n!ls", want: "'''a\nb'''\n" + `get_ipython().system("ls")`},
	{code: "a = '('\n!ls", want: "a = '('\n" + `get_ipython().system("ls")`},
	{code: "a = 1 # (\n!ls", want: "a = 1 # (\n" + `get_ipython().system("ls")`},
	// Magics.
	{code: "%matplotlib inline\nx = 1", want: `get_ipython().run_line_magic("matplotlib", "inline")` + "\nx = 1"},
	{code: "x = %pwd", want: `x = get_ipython().run_line_magic("pwd", "")`},
	{code: "x = %env HOME", want: `x = get_ipython().run_line_magic("env", "HOME")`},
	{code: "for i in x:\n  %time f(i)", want: "for i in x:\n  " + `get_ipython().run_line_magic("time", "f(i)")`},
	{code: "%load_ext autoreload\n%autoreload 2", want: `get_ipython().run_line_magic("load_ext", "autoreload")` + "\n" + `get_ipython().run_line_magic("autoreload", "2")`},
	{code: "%timeit -n 10 -r3 f()", want: `get_ipython().run_line_magic("timeit", "-n 10 -r3 f()")`},
	{code: "%timeit -o  -r3  f()", want: `get_ipython().run_line_magic("timeit", "-o  -r3 f()")`, automagic: true},
	{code: "%timeit !ls", want: `get_ipython().run_line_magic("timeit", "get_ipython().system(\"ls\")")`, automagic: true},
	{code: "%%timeit -r1 %pwd\nx", want: `get_ipython().run_cell_magic("timeit", "-r1 get_ipython().run_line_magic(\"pwd\", \"\")", "\nx")`, automagic: true},
	{code: "%run helper.py", want: `get_ipython().run_line_magic("run", "helper.py")`},
	{code: "%run -i 'my helper' a", want: `get_ipython().run_line_magic("run", "-i 'my helper' a")`},
	{code: "%%bash -s \"$x\" --out y\nls", want: `get_ipython().run_cell_magic("bash", "-s \"$x\" --out y", "ls")`},
	{code: "%%script --no-raise-error --err e bash -e\nls", want: `get_ipython().run_cell_magic("script", "--no-raise-error --err e bash -e", "ls")`},
	{code: "%%script false --no-raise-error\nls", want: `get_ipython().run_cell_magic("script", "false --no-raise-error", "ls")`},
	{code: "%pip install x", want: `get_ipython().run_line_magic("pip", "install x")`},
	{code: "\n\n%%time\nx = 1\ny = 2", want: "\n\n" + `get_ipython().run_cell_magic("time", "", "\n\n\nx = 1\ny = 2")`},
	{code: "%%bash\nfor i in 1 2; do echo 'it?'; done", want: `get_ipython().run_cell_magic("bash", "", "for i in 1 2; do echo 'it?'; done")`},
	{code: "%%capture out\nprint(1)", want: `get_ipython().run_cell_magic("capture", "out", "\nprint(1)")`},
	{code: "%%writefile a.py\nx?", want: `get_ipython().run_cell_magic("writefile", "a.py", "x?")`},
	{code: "%%html\n<b>", want: `get_ipython().run_cell_magic("html", "", "<b>")`},
	{code: "%%!\nls", want: `get_ipython().run_cell_magic("!", "", "ls")`},
	{code: "get_ipython().system('ls')\nget_ipython().run_line_magic('matplotlib', 'inline')"},
	// Calls.
	{code: "/f x y", want: "f(x, y)"},
	{code: ",f x y", want: `f("x", "y")`},
	{code: ";f x y", want: `f("x y")`},
	{code: "x = 1\n  \n/f 1", want: "x = 1\n  \nf(1)"},
	// Copied with its prompts, or indented.
	{code: ">>> x = 1\n... y\n>>> !ls", want: "x = 1\ny\n" + `get_ipython().system("ls")`},
	{code: "x = 1\n...", want: "x = 1\n"},
	{code: "...\nx = 1"},
	{code: "# pasted\n>>> x = 1\n... y", want: "# pasted\nx = 1\ny"},
	{code: "In [1]: x = 1\n   ...: !ls", want: "x = 1\n" + `get_ipython().system("ls")`},
	{code: "  x = 1\n  !ls", want: "x = 1\n" + `get_ipython().system("ls")`},
	{code: "x = 1\r\n!ls\r\n", want: "x = 1\n" + `get_ipython().system("ls")`},
	// Magics without their %.
	{code: "pip install x", want: `get_ipython().run_line_magic("pip", "install x")`, automagic: true},
	{code: "\nls -la /", want: "\n" + `get_ipython().run_line_magic("ls", "-la /")`, automagic: true},
	{code: "pwd", want: `get_ipython().run_line_magic("pwd", "")`, automagic: true},
	{code: "time = 3"},
	{code: "time.sleep(1)"},
	{code: "run if x else y"},
	{code: "pip install x\n\ny = 1", want: "pip install x\n\ny = 1"}, // more than a line: for Python
	{code: "who", refused: `line 1: "who" needs the session of a Jupyter server`, automagic: true},
	{code: "conda install x", refused: "needs a program that the image of a step lacks", automagic: true},

	// Help.
	{code: "x = [1]\nx.append?", refused: `line 2: "x.append?" asks for help, which only Jupyter can show: take it out, or tag the cell "skip"`},
	{code: "a?", refused: "asks for help"},
	{code: "a??", refused: "asks for help"},
	{code: "?a", refused: "asks for help"},
	{code: "??a.b", refused: "asks for help"},
	{code: "?", refused: "asks for help"},
	{code: "*a*?", refused: "asks for help"},
	{code: "%time?", refused: "asks for help"},
	{code: "%%time?", refused: "asks for help"},
	{code: "x = 1\nif x:\n    x[0].y?", refused: `line 3: "x[0].y?"`},
	{code: "!ls x?", refused: "asks for help"},
	{code: "x = (1,\n 2)\nx?", refused: "line 3:"},
	// What needs Jupyter.
	{code: "x = 1\n%lprun -f f f()", refused: `line 2: "%lprun -f f f()" is not known to a step, which is a Python script without IPython: take it out`},
	{code: "%debug", refused: "needs a person at a terminal"},
	{code: "%whos", refused: "needs the session"},
	{code: "x = %history", refused: "needs the session"},
	{code: "%load_ext tensorboard", refused: "loads an extension of IPython"},
	{code: "%pylab inline", refused: "that the image of a step lacks"},
	{code: "%prun f()", refused: "profiler"},
	{code: "%run -m a", refused: "must name a Python file (.py), with no option of %run but -i"},
	{code: "%run other.ipynb", refused: "must name a Python file"},
	{code: "%run -i 'my other.ipynb' a", refused: "must name a Python file"},
	{code: "%run", refused: "must name a Python file"},
	{code: "x = 1\n%%time\ny = 2", refused: `line 2: "%%time" must be the first line of its cell`},
	{code: "%%ruby\nputs 1", refused: "that the image of a step lacks"},
	{code: "%%cython\ncdef int a", refused: "is not known to a step"},
	{code: "%%bash --bg\nls", refused: "must not have the options --bg and --proc"},
	{code: "%%script --proc p bash\nls", refused: "must not have the options --bg and --proc"},
	{code: "%%script\nls", refused: "must name a program"},
	{code: "%%script --out x\nls", refused: "must name a program"},
	{code: "%%time f()\ny", refused: "must have the code to time"},
	{code: "%%time\nx = 1\ny?", refused: `line 3: "y?" asks for help`},
	{code: "%%timeit x?\ny", refused: `line 1: "x?" asks for help`},
	{code: "%time %debug", refused: `line 1: "%debug" needs a person`},
	{code: "get_ipython().run_line_magic('debug', '')", refused: `needs a person`},
	{code: "get_ipython().magic('load_ext tensorboard')", refused: `loads an extension`},
	{code: "get_ipython().run_cell_magic('ruby', '', 'puts 1')", refused: `that the image of a step lacks`},
	{code: "/ x", refused: "must name a function after /", noPython: true},
	// No Python, as far as one can tell without Python.
	{code: "x = 1\ny ? z", refused: `line 2: "y ? z" is neither Python nor a line of Jupyter's: "?" is out of place`, noPython: true},
	{code: "x?  # why", refused: "neither Python nor", noPython: true},
	{code: "f()?", refused: "neither Python nor", noPython: true},
	{code: "x = 1; !ls", refused: "neither Python nor", noPython: true},
	{code: "x = $y", refused: "neither Python nor", noPython: true},
	{code: "x = “a”", refused: "neither Python nor", noPython: true},
	{code: "x = 'a\ny = 1", refused: `line 1: "x = 'a" has a quote that nothing closes`, noPython: true},
	{code: "x = 1\ny = '''a\n", refused: `line 2: "y = '''a" has a quote that nothing closes`, noPython: true},
	{code: "x = (1\ny = 2", refused: `line 1: "x = (1" opens a bracket that nothing closes`, noPython: true},
	{code: "x = 1\ny = 1)", refused: `line 2: "y = 1)" closes a bracket that is not open`, noPython: true},
	{code: "x = [1)", refused: "closes a bracket that is not open", noPython: true},
}

func TestLinesForJupyterBecomePythonOrAreRefused(t *testing.T) {
	for _, tc := range lineCases {
		got, err := python(tc.code, func(string) bool { return false })
		want := tc.want
		if want == "" {
			want = tc.code
		}
		in := (*flaw)(nil)
		switch {
		case tc.refused == "" && (err != nil || got != want):
			t.Errorf("%q: got %q, %v, want %q", tc.code, got, err, want)
		case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused) || !errors.As(err, &in) || in.line == 0):
			t.Errorf("%q: got %q, %v, want an error with %q", tc.code, got, err, tc.refused)
		}
	}
}

// A name of the notebook's is no magic.
func TestANameOfTheNotebooksIsNoMagic(t *testing.T) {
	book, err := Read(notebook(t, code("who = 1", "step:a"), code("who"), code("pwd"), code("ls = 3"), code("ls -la")))
	if err != nil {
		t.Fatal(err)
	}
	if got := book.Steps[0].Cells; got[1].Code != "who" || !strings.Contains(got[2].Code, "run_line_magic") || got[4].Code != "ls -la" {
		t.Errorf("got %v", got)
	}
	if book, err = Read(notebook(t, code("from settings import *", "step:a"), code("env"))); err != nil || book.Steps[0].Cells[1].Code != "env" {
		t.Errorf("got %v, %v", book, err)
	}
}

func TestLinesForJupyterAreBounded(t *testing.T) {
	if _, err := python(strings.Repeat("!ls\n", maxLines), nil); err != nil {
		t.Error(err)
	}
	if _, err := python(strings.Repeat("!ls\n", maxLines+1), nil); err == nil || !strings.Contains(err.Error(), "line 501: a cell must have at most 500 lines") {
		t.Errorf("%v", err)
	}
}

func FuzzPython(f *testing.F) {
	for _, tc := range lineCases {
		f.Add(tc.code)
	}
	f.Fuzz(func(t *testing.T, code string) {
		got, err := python(code, func(string) bool { return false })
		if err != nil {
			return
		}
		// It is done: a second reading finds nothing.
		if again, err := python(got, func(string) bool { return true }); err != nil || again != strings.TrimRight(got, "\n") && !strings.HasPrefix(strings.TrimSpace(code), ">>>") {
			t.Errorf("%q became %q, and then %q, %v", code, got, again, err)
		}
	})
}

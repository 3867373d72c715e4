package notebook

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
)

// lineCases are cells, and the Python that they become; TestLinesAreJupytersAsUpstreamSays
// asks IPython the same.
var lineCases = []struct {
	code      string
	want      string // "" is the code itself
	automagic bool   // IPython finds it later: when it knows the names, or runs the magic around it
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
	{code: "pip install x\n\ny = 1", want: "pip install x\n\ny = 1"}, // more than a line: for Python
	{code: "who", want: `get_ipython().run_line_magic("who", "")`, automagic: true},
	{code: "exit", want: "raise SystemExit", automagic: true},
	{code: "quit ", want: "raise SystemExit", automagic: true},
	{code: "x = 1\nexit"},
	{code: "conda install x", want: `get_ipython().run_line_magic("conda", "install x")`, automagic: true},

	// Help.
	{code: "x = [1]\nx.append?", want: "x = [1]\n" + `get_ipython().run_line_magic("pinfo", "x.append")`},
	{code: "a?", want: `get_ipython().run_line_magic("pinfo", "a")`},
	{code: "a??", want: `get_ipython().run_line_magic("pinfo2", "a")`},
	{code: "?a", want: `get_ipython().run_line_magic("pinfo", "a")`},
	{code: "??a.b", want: `get_ipython().run_line_magic("pinfo2", "a.b")`},
	{code: "?", want: `get_ipython().show_usage()`},
	{code: "??", want: `get_ipython().show_usage()`},
	{code: "*a*?", want: `get_ipython().run_line_magic("psearch", "*a*")`},
	{code: "?a*", want: `get_ipython().run_line_magic("psearch", "a*")`},
	{code: "%time?", want: `get_ipython().run_line_magic("pinfo", "%time")`},
	{code: "%%time?", want: `get_ipython().run_line_magic("pinfo", "%%time")`},
	{code: "x = 1\nif x:\n    x[0].y?", want: "x = 1\nif x:\n    " + `get_ipython().run_line_magic("pinfo", "x[0].y")`},
	{code: "!ls x?", want: `get_ipython().run_line_magic("pinfo", "x")`},
	{code: "x = 1; y?", want: `get_ipython().run_line_magic("pinfo", "y")`},
	{code: "x = (1,\n 2)\nx?", want: "x = (1,\n 2)\n" + `get_ipython().run_line_magic("pinfo", "x")`},
	{code: "x = (1,\n 2); y?\nz = 1", want: `get_ipython().run_line_magic("pinfo", "y")` + "\n\nz = 1"},
	// What a step cannot run, it gets all the same: it may not be reached.
	{code: "if IN_COLAB:\n    %tensorflow_version 2.x", want: "if IN_COLAB:\n    " + `get_ipython().run_line_magic("tensorflow_version", "2.x")`},
	{code: "try:\n  # Colab only\n  %tensorflow_version 2.x\nexcept Exception:\n  pass", want: "try:\n  # Colab only\n  " + `get_ipython().run_line_magic("tensorflow_version", "2.x")` + "\nexcept Exception:\n  pass"},
	{code: "x = %history", want: `x = get_ipython().run_line_magic("history", "")`},
	{code: "x = 1\n%%time\ny = 2", want: "x = 1\n" + `get_ipython().run_line_magic("%time", "")` + "\ny = 2"},
	{code: "%%ruby\nputs 1", want: `get_ipython().run_cell_magic("ruby", "", "puts 1")`},
	{code: "%%time\nx = 1\ny?", want: `get_ipython().run_cell_magic("time", "", "\nx = 1\nget_ipython().run_line_magic(\"pinfo\", \"y\")")`, automagic: true},
	{code: "%%timeit x?\ny", want: `get_ipython().run_cell_magic("timeit", "get_ipython().run_line_magic(\"pinfo\", \"x\")", "\ny")`, automagic: true},
	{code: "%time %debug", want: `get_ipython().run_line_magic("time", "get_ipython().run_line_magic(\"debug\", \"\")")`, automagic: true},
	// What is no line of Jupyter's is left to Python, which refuses it.
	{code: "/ x"},
	{code: "/"},
	{code: "x = 1\n/"},
	{code: "x = 1\ny ? z"},
	{code: "x?  # why"},
	{code: "f()?"},
	{code: "x = 1; !ls"},
	{code: "x = $y"},
	{code: "x = 'a\ny = 1"},
	{code: "x = 1\ny = '''a"},
	{code: "x = (1\ny = 2"},
	{code: "x = 1\ny = 1)\n!ls", want: "x = 1\ny = 1)\n" + `get_ipython().system("ls")`},
}

// bareCases are cells that may be magics without their %, and the magics' arguments.
var bareCases = []struct{ code, magic, args string }{
	{"ls", "ls", ""}, {"cd /tmp", "cd", "/tmp"}, {"ls  *.csv", "ls", "*.csv"}, {"ls | head", "ls", "| head"}, {"cat <x", "cat", "<x"}, {"rm += 1", "rm", "+= 1"},
	{"cd ..", "cd", ".."}, {"run if x else y", "run", "if x else y"}, {"rm = 3", "", ""}, {"ls == 3", "", ""}, {"time, x", "", ""}, {"x = 3", "", ""},
}

func TestAMagicNeedsNoPercentSign(t *testing.T) {
	for _, tc := range bareCases {
		want := tc.code
		if tc.magic != "" {
			want = fmt.Sprintf("get_ipython().run_line_magic(%q, %q)", tc.magic, tc.args)
		}
		if got, err := toPython(tc.code, func(string) bool { return false }); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		if got, err := toPython(tc.code, func(string) bool { return true }); got != tc.code || err != nil {
			t.Errorf("%q is Python if its name is taken, got %q, %v", tc.code, got, err)
		}
	}
}

func TestLinesForJupyterBecomePython(t *testing.T) {
	for _, tc := range lineCases {
		got, err := toPython(tc.code, func(string) bool { return false })
		if want := cmp.Or(tc.want, tc.code); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", tc.code, got, err, want)
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

// Other cells may have the same magic, with or without its %: that sets no name.
func TestAMagicOfTwoCellsNeedsNoPercentSign(t *testing.T) {
	for _, cells := range [][]string{
		{"pip list", "pip list"}, {"!pip list", "pip list"}, {"%pip list", "pip list"}, {"%%bash\npip list", "pip list"}, {"ls", "ls"}, {"%cd -q ..", "cd .."},
		{"%time !ls", "ls"}, {"x.ls()", "ls"}, {"from x import *", "pip install y"},
		{"%%writefile x.py\nls = 1", "ls"}, {"%%shell\nls", "ls"}, {"%%!\nls", "ls"},
	} {
		book, err := Read(notebook(t, code(cells[0], "step:a"), code(cells[1])))
		if err != nil || !strings.HasPrefix(book.Steps[0].Cells[1].Code, "get_ipython().run_line_magic(") {
			t.Errorf("%q: got %v, %v", cells, book, err)
		}
	}
	for _, cells := range [][]string{{"ls = 3", "ls"}, {"%%time\nls = 3", "ls -la"}, {"%time ls = 3", "ls"}, {"import time", "time"}, {"exit = 3", "exit"}, {"from x import *", "ls"}, {"%run x.py", "history"}, {"%%time\n%run x.py", "history"}, {"%%sql rows <<\nSELECT 1", "history"}, {"pip = y", "pip if pip else y"}} {
		book, err := Read(notebook(t, code(cells[0], "step:a"), code(cells[1])))
		if err != nil || book.Steps[0].Cells[1].Code != cells[1] {
			t.Errorf("%q: got %v, %v", cells, book, err)
		}
	}
}

// It ends a step, however often a notebook has it.
func TestExitAloneEndsAStep(t *testing.T) {
	book, err := Read(notebook(t, code("exit", "step:a"), code("quit"), code("exit"), code("%%time\nquit")))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range book.Steps[0].Cells {
		if !strings.Contains(c.Code, "raise SystemExit") {
			t.Errorf("got %q", c.Code)
		}
	}
}

func TestLinesForJupyterAreBounded(t *testing.T) {
	if _, err := toPython(strings.Repeat("!ls\n", maxLines), nil); err != nil {
		t.Error(err)
	}
	if _, err := toPython(strings.Repeat("!ls\n", maxLines+1), nil); err == nil || !strings.Contains(err.Error(), "it must have at most 500 lines for Jupyter") {
		t.Errorf("%v", err)
	}
}

func FuzzPython(f *testing.F) {
	for _, tc := range lineCases {
		f.Add(tc.code)
	}
	f.Fuzz(func(t *testing.T, code string) {
		got, err := toPython(code, func(string) bool { return false })
		if err != nil {
			return
		}
		// It is done: a second reading finds nothing.
		if again, err := toPython(got, func(string) bool { return true }); err != nil || again != strings.TrimRight(got, "\n") && !strings.HasPrefix(strings.TrimSpace(code), ">>>") {
			t.Errorf("%q became %q, and then %q, %v", code, got, again, err)
		}
	})
}

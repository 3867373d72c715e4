"""Runs one step of a notebook: python3 run.py STEPS STEP [STEP-BEFORE=IMAGE…]

STEPS is a file with the notebook's code, as `mllab pipeline compile` writes it. First run the cells that all steps
share: parameters, imports, functions. Then come what the steps before import, their functions and their classes, which
are defined again; the names that they have left, in the order in which they are named; and then the step's own cells.
What is left at the end, the next steps get: every name with a value, but those of the shared cells, which each step
defines for itself, and those that begin with _.

The environment may give a parameter NAME another value, as PARAMETER_NAME.

The names travel as an image in the lab's registry, pushed as $STORE:$RUN-STEP. Its reference by digest is written to
/tmp/outputs/names, and a next step gets that reference: it reads the names that this step has left, whatever becomes of
the tag. The value of the name result is written as JSON to /tmp/outputs/result, or null. Metrics are written to
/tmp/outputs/metrics. The last line is JSON with the names, or with the error.

Exit codes: 0; 1 when a cell fails, or leaves what cannot be handed on; 75 when the registry does, which another try may
fix. The error is the pod's message, too.

python3 run.py check reads STEPS from stdin, with the texts of the notebook's own files by name, runs nothing, and writes as JSON
what no step can run: the first syntax error, magic that no step can run, or use of what only IPython has.
"""

import __future__
import argparse
import ast
import asyncio
import builtins
import contextlib
import dis
import functools
import importlib.util
import inspect
import io
import json
import linecache
import math
import os
import pickle
import re
import shlex
import signal
import statistics
import string
import subprocess
import sys
import time
import timeit
import tokenize
import traceback
import types
from pathlib import Path

NO_VALUES = types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type
TEMP_FAIL = 75  # EX_TEMPFAIL of sysexits.h: also what modelcar says of a registry that fails
MOST = 256 << 10  # bytes of a result: Argo keeps it in the Workflow's status
FUTURES = functools.reduce(lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0)
# What can be imported in the lab's Python image, besides Python's own: its packages, and what stands in for IPython's modules.
PACKAGES = "joblib numpy pip scipy sklearn threadpoolctl".split()
IPYTHON = "IPython IPython.display IPython.core IPython.core.display IPython.core.error IPython.core.getipython IPython.core.interactiveshell IPython.core.magic".split()
CHECKS = sys.argv[1:] == ["check"]  # this Python is not that of the steps
# Modules of the steps' Python, 3.11: a newer one here lacks those that 3.12, 3.13 (PEP 594) and 3.15 took out.
# https://docs.python.org/3/whatsnew/3.12.html https://docs.python.org/3/whatsnew/3.13.html https://docs.python.org/3.15/whatsnew/3.15.html
MODULES = {
    *sys.stdlib_module_names,
    *"__main__ asynchat asyncore distutils imp smtpd sre_compile sre_constants sre_parse".split(),
    *"aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap msilib nis nntplib ossaudiodev pipes sndhdr spwd sunau telnetlib uu xdrlib".split(),
}
# What asks a person, and its module.
ASKING = {"breakpoint", "getpass", "getpass.getpass", "input", "pdb", "pdb.set_trace", "set_trace"}
# What IPython sets for every notebook: https://ipython.readthedocs.io/en/8.31.0/interactive/reference.html#output-caching-system
IPYTHONS = r"_{1,3}|_i{1,3}|_i?\d+|_[iod]h|In|Out|__IPYTHON__|__session__"
# All names that a place sets for its notebooks, and the modules that are there only.
PLACES = {
    "IPython": re.compile(IPYTHONS),
    "VS Code": re.compile(r"__vsc_ipynb_file__"),
    "Deepnote": re.compile(r"_deepnote_\w+|deepnote_toolkit"),
    "Databricks": re.compile(r"dbutils|displayHTML|spark|sc|sqlContext"),
    "Colab": re.compile(r"google\.colab"),
    "Kaggle": re.compile(r"kaggle_(secrets|datasets|web_client)"),
    "JupyterLite": re.compile(r"piplite|pyodide(_js)?"),
}
# What of a node runs whenever it does, by the node's class: these fields, of a list the first. Else all of it. An annotation may not run, what is
# in a with may have its error suppressed, and a metaclass may set names in a class.
SURELY = {
    **dict.fromkeys(["If", "IfExp", "While", "Assert"], "test"),
    **dict.fromkeys(["For", "AsyncFor", "comprehension"], "iter"),
    **dict.fromkeys(["With", "AsyncWith"], "items"),
    **dict.fromkeys(["ListComp", "SetComp", "DictComp", "GeneratorExp"], "generators"),
    **dict.fromkeys(["FunctionDef", "AsyncFunctionDef"], "decorator_list args"),
    "Lambda": "args",
    "arg": "",
    "AnnAssign": "target value",
    "ClassDef": "decorator_list bases",
    "Match": "subject",
    "BoolOp": "values",
    "Compare": "left comparators",
}
# With these, code may set any name, or replace any function or module; so do %run and from x import *.
ANY_NAMES = "exec", "eval", "globals", "locals", "vars", "setattr", "__builtins__"
ANY_ATTRIBUTES = "__dict__", "user_ns", "f_globals", "setattr", "patch"
# What some calls set: those of gettext, sys, doctest, and os.
SET_BY_CALLS = {**dict.fromkeys(["install", "displayhook", "testmod", "testfile", "run_docstring_examples"], "_"), "dup2": "stdin"}
# With these, a notebook or its files may bring modules, make them under a name that only a run knows, or have Python find them elsewhere.
BRINGS = re.compile(
    r"PIP_NO_INDEX|find-links|FIND_LINKS|git\+|\.(whl|zip|egg|tar\.gz|pyc|so)\b|(%\S{,20}|\b_\w*|(?<!\w))\.py\b|sys\.path"
    r"|\bpath\.(append|insert|extend)|[=(]\s*sys\.modules|sys import modules"
    r"|(\b|\\[nt])(tar|unzip|git|curl|wget|cp|mv|ln|cd|pushd|mkdir|modelcar)\b"
    r"|\b(chdir|makedirs|rename|symlink\w*|shutil|\w*copytree|copy_tree|\w*extract(all)?|unpack_archive|urlretrieve|addsitedir|distutils|setuptools)\b"
    r"|\b(importlib|__import__|meta_path|path_hooks|zipimport\w*)\b"
)
# With these, another file may set what the notebook has.
ELSEWHERE = re.compile(r"builtins|displayhook|f_globals|getpass|gettext|pdb|stdin|sys\.modules|user_ns")
# IPython's magics that no step can run, by the reason.
UNABLE = {
    "needs a person at a terminal": "clear connect_info debug ed edit gui less load loadpy man more notebook page pastebin qtconsole quickref recall rep rerun tb",
    "needs the session of a Jupyter server, and a step has none": (
        "alias alias_magic bookmark code_wrap dhist dirs hist history killbgscripts logoff logon logstart logstate logstop lsmagic macro magic popd pushd rehashx reset"
        " reset_selective save sc store subshell unalias who who_ls whos xdel"
    ),
    "asks for help, which only Jupyter can show": "pdef pdoc pfile pinfo pinfo2 psearch psource pycat",
    "needs a program that the image of a step lacks": "conda mamba micromamba perl pylab pypy python2 ruby uv",
    "measures with IPython's profiler, and a step has no IPython": "prun",
    "needs an extension of IPython, and a step has none": "unload_ext",
}
UNABLE = {magic: why for why, magics in UNABLE.items() for magic in magics.split()}
# What %run takes: a Python file, with .py or without it. What %%script takes: a program, after IPython's options.
FILE = re.compile(r"""(-i\s+)?("[^"]+"|'[^']+'|[^\s"'-]\S*)(\s|$)""")
NOTEBOOK = re.compile(r"""(-i\s+)?("[^"]+\.ipy(nb)?"|'[^']+\.ipy(nb)?'|\S+\.ipy(nb)?)(\s|$)""")
PROGRAM = re.compile(r"((--no-raise-error|--(out|err)[ =]\S+)\s+)*[^\s-]")
# A line that was copied from a shell, and is no Python.
SHELL_LINE = re.compile(r"\s*(?:\$ +)?((?<=\$ )\S.*|(?:cd|curl|export|git|ls|mkdir|npm|pip3?|python3?|wget)\s+[\w./~$-].*)")
# A command that runs a Python file.
PYTHON_FILE = re.compile(r"python3?\s+(?:-u\s+)?([\w./-]+\.py)(?=\s|$)")
# What makes a class or a type that is known by the name to which it is assigned.
MAKERS = "Enum Flag IntEnum IntFlag NamedTuple NewType ParamSpec StrEnum TypeVar TypeVarTuple TypedDict make_dataclass namedtuple".split()
# A notebook that names one of these, or whose files do, may have magics of its own.
REGISTERS = "register_magic_function", "register_line_magic", "register_cell_magic", "register_line_cell_magic"
TIMEIT_OPTIONS = re.compile(r"(\s*-([nr]\s*\d+|[tcqpo]+\d*)(\s+|$))*")


def say(**fields):
    print(json.dumps(fields), flush=True)


def modelcar(*args):
    """Runs modelcar, and returns the image by its digest. What it says when it fails is in the exception's stderr."""
    done = subprocess.run(["modelcar", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    done.check_returncode()
    return done.stdout.strip()


def hand_out(name, text):
    folder = Path("/tmp/outputs")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def failed(code, step, where, error):
    say(step=step, where=where, error=error)
    # https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
    message = Path("/dev/termination-log")
    if message.exists():
        message.write_text(f"{where}: {error}"[:2000])
    return code


def compiled(code, where, mode="exec", future=0):
    """Compiles Python that may await outside of a function, as in Jupyter. future are the flags of the cells before."""
    return compile(code, where, mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | future, dont_inherit=True)


def compiled_tree(tree, where, mode="exec", future=0):
    """Compiles a tree: also one of more levels than functions may have, as when it compiles a text."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 4000))
    try:
        return compile(tree, where, mode, flags=future, dont_inherit=True)
    finally:
        sys.setrecursionlimit(limit)


def keep_source(code, where):
    """Keeps a cell's text for tracebacks and inspect.getsource, as Jupyter does."""
    linecache.cache[where] = len(code), None, code.splitlines(True), where


def untimed(line):
    """Returns the code of a line of %time."""
    return re.sub(r"^\s*--no-raise-error\s", "", line)


def magic_call(node):
    """Returns whether a node calls a cell magic, and its texts: magic, line, and the cell's; None for all that only a run knows."""
    kind = getattr(getattr(node, "func", None), "attr", "")
    if kind not in ("magic", "run_line_magic", "run_cell_magic"):
        return None
    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if kind == "magic" and len(texts) == 1:
        texts = f"{texts[0].lstrip('%')} ".split(" ", 1)
    return (kind == "run_cell_magic", *texts) if len(texts) > 1 and len(texts) >= len(node.args) else None


def in_magics(nodes, leaving=False):
    """Returns the Python that the magics among a tree's nodes run: texts. With leaving those only that leave names."""
    found = []
    for node in nodes:
        _, magic, *texts = magic_call(node) or (None, None)
        above = "\n" * (node.lineno - 1) if magic else ""  # a cell's own Python has them already
        if magic == "timeit" and not leaving:
            texts[0] = TIMEIT_OPTIONS.sub("", texts[0])
            found += [above + texts[0].strip(), *texts[1:]]
        elif magic in ("time", "capture"):
            found += texts[1:] or [above + untimed(texts[0])]
    return found


def unable(magic, line, cell=False):
    """Returns why a step cannot run a magic, or None. cell says that it is a cell magic."""
    line = line.strip()
    if magic in UNABLE:
        why = UNABLE[magic]
    elif magic.startswith("%"):
        why = "must be the first line of its cell"
    elif magic not in (Shell.cell_magics if cell else Shell.line_magics):
        why = "is not known to a step, which is a Python script without IPython"
    elif re.search(r"[{$]", line):  # only a run knows the rest of the line
        return None
    elif magic in ("load_ext", "reload_ext") and line != "autoreload":
        why = "loads an extension of IPython, and a step has none"
    elif magic == "run" and (not FILE.match(line) or NOTEBOOK.match(line)):
        why = "must name a Python file (.py), with no option of %run but -i"
    elif cell and (magic in Shell.scripts or magic == "script") and re.search(r"(^|\s)(--bg(\s|$)|--proc)", line):
        why = "must not have the options --bg and --proc: a step waits for its script"
    elif magic == "script" and not PROGRAM.match(line):
        why = "must name a program"
    elif cell and magic == "time" and line not in ("", "--no-raise-error"):
        why = "must have the code to time in the lines below"
    else:
        return None
    whole = f"{'%%' if cell else '%'}{magic} {line}".strip()
    if magic in ("pinfo", "pinfo2", "psearch"):
        whole = line + ("??" if magic == "pinfo2" else "?")
    return f'{json.dumps(whole if len(whole) < 61 else whole[:57] + "...", ensure_ascii=False)} {why}: take it out, or tag the cell "skip"'


def nodes(tree, below=ast.iter_child_nodes):
    """Yields a tree and all nodes below it, in the order of the code, as deep as they may be. below returns a node's children."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        left += reversed(list(below(node)))


def surely(node):
    """Returns the children of a node that run whenever it does, if nothing can handle their errors."""
    if getattr(node, "handlers", None):
        return []
    if type(node).__name__ not in SURELY:
        return ast.iter_child_nodes(node)
    parts = [getattr(node, field) for field in SURELY[type(node).__name__].split()]
    return [each for part in parts for each in (part[:1] if isinstance(part, list) else [part]) if each]


def sets(node):
    """Returns the names that a node sets, also as attributes; * if they may be any, and % if it may set magics."""
    if any(getattr(node, field, None) in REGISTERS for field in ("id", "attr", "name")):  # a name, or what is imported as another
        return ["%"]
    if getattr(node, "id", None) in ANY_NAMES or getattr(node, "attr", None) in ANY_ATTRIBUTES:
        return ["*"]
    if isinstance(node, (ast.Attribute, ast.Subscript)) and getattr(node.value, "attr", None) == "modules":  # of sys
        return ["*"]
    if isinstance(node, (ast.Name, ast.Attribute)):
        return [] if isinstance(node.ctx, ast.Load) else [getattr(node, "id", None) or node.attr]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        of = getattr(node, "module", None) or ""
        names = {(each.asname or each.name).split(".")[0] for each in node.names if each.asname or f"{of}.{each.name}".lstrip(".") not in ASKING}
        return names - {"get_ipython"} if "IPython" in of else names
    if isinstance(node, ast.alias):
        return ["*"] if node.name == "patch" else []  # of unittest.mock
    if isinstance(node, ast.Constant):
        text = str(node.value)  # such as a file's below %%writefile
        found = ["breakpoint"] * ("PYTHONBREAKPOINT" in text) + ["%"] * any(name in text for name in REGISTERS)
        return found + re.findall(r"\b\w+\.py\b", text)  # files that it may write
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return node.names
    if isinstance(node, ast.Call):
        called = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        if called in SET_BY_CALLS:
            return [SET_BY_CALLS[called]]
        if called not in ("magic", "run_line_magic", "run_cell_magic"):
            return []
        magic, *words = re.findall(r"[\w.]+", " ".join(str(getattr(arg, "value", "")) for arg in node.args[:2])) or [""]
        if magic == "run" or node.keywords or not all(isinstance(arg, ast.Constant) for arg in node.args):
            return ["*"]
        return words if magic == "aimport" or called == "run_cell_magic" and magic != "timeit" else []  # %%capture NAME, %%sh --out NAME, %%writefile FILE
    return [getattr(node, "arg", None) if isinstance(node, ast.arg) else getattr(node, "name", None), getattr(node, "rest", None)]


def needs(node, known):
    """Returns why a node that surely runs fails in a step, or None. known has the names that the notebook sets, and its files."""
    if (call := magic_call(node)) and of_ipython(node.func) and not known & {"%", "get_ipython"} and (why := unable(call[1], call[2], call[0])):
        return why
    if of_ipython(node) and node.attr == "show_usage" and not known & {"get_ipython", "show_usage"}:
        return unable("pinfo", "")
    if "*" in known:
        return None
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in known and (place := place_of(node.id)):
        return f"{node.id} is set by {place}, and a step is a script without it: give the value a name of your own"
    if of_ipython(node) and isinstance(node.ctx, ast.Load) and not hasattr(Shell, node.attr) and not known & {"get_ipython", node.attr}:
        return f"get_ipython().{node.attr} is IPython's, and a step is a script without it: take it out, or tag the cell \"skip\""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        of = getattr(node, "module", None)
        for module in [each for a in node.names for each in ([of, f"{of}.{a.name}"] if of else [a.name, ".".join(a.name.split(".")[:2])])]:
            if (place := place_of(module)) and not known & {f"{module}.py", "*.py"}:
                return f'{module} is there in {place} only: take it out, or tag the cell "skip"'
        for module in [] if getattr(node, "level", 0) else [of] if of else [a.name for a in node.names]:
            if absent(module, known):
                if module.startswith("IPython"):
                    return f'{module} is IPython\'s, and a step is a script without it: take it out, or tag the cell "skip"'
                return f'a step has no module {module}: give it with --file, take it out, or tag the cell "skip" (the image has Python\'s own, {", ".join(PACKAGES)})'
    if isinstance(node, ast.Call) and (called := asks(node.func, known)) and "stdin" not in known:
        return f'{called}() needs a person, and none is at a step: take it out, or tag the cell "skip"'


def absent(module, known):
    """Returns whether a step has no such module. known has the notebook's files, also those that its code may write."""
    top = module.split(".")[0]
    if known & {"*.py", "import", f"{top}.py"} or module in IPYTHON:
        return False
    if top == "IPython" or CHECKS:
        return top not in MODULES and top not in PACKAGES
    return top not in sys.modules and importlib.util.find_spec(top) is None


def asks(function, known):
    """Returns what a call asks a person by, or None."""
    of = getattr(getattr(function, "value", None), "id", "")
    names = [of, function.attr] if of and isinstance(function, ast.Attribute) else [getattr(function, "id", "")]
    called = ".".join(names)
    return called if called in ASKING and not known & {*names, f"{names[0]}.py", "breakpointhook"} else None


def of_ipython(node):
    """Returns whether a node is get_ipython().NAME."""
    function = getattr(getattr(node, "value", None), "func", None) if isinstance(node, ast.Attribute) else None
    return "get_ipython" in (getattr(function, "id", None), getattr(function, "attr", None))


def place_of(name):
    return next((place for place, names in PLACES.items() if names.fullmatch(name)), None)


def magic_above(line, code, known):
    """Returns the line of a magic that no step can run, and why: what is below may be its text, such as SQL. None if there is none."""
    try:
        tree = ast.parse("\n".join(code.split("\n")[: line - 1]))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    known = {"*"}.union(known, *map(sets, nodes(tree)))
    return next(((node.lineno, why) for node in nodes(tree, surely) if (why := needs(node, known))), None)


def broken(steps, files={}):
    """Returns the first cell that no step can run, its line, and why; or None. files are the notebook's own: texts by name."""
    every, judged = [], []
    by_files = {name for text in files.values() for name in sets(ast.Constant(text))}

    def check(code, where, compiled, runs=True):
        try:
            if "\0" in code:
                raise SyntaxError("a null byte", (where, code[: code.index("\0")].count("\n") + 1, None, None))
            # A newer Python here has a newer grammar than the pods'.
            tree = ast.parse(code, feature_version=(3, 11))
            compiled(code, where)
            if line := newer_string(code):
                raise SyntaxError("an f-string of Python 3.12: the steps' 3.11 takes no quote of its own, no backslash and no comment in its { }", (where, line, None, None))
        except SyntaxError:
            if runs:
                raise
            return
        own, sure = list(nodes(tree)), list(nodes(tree, surely)) if runs else []
        every.extend(own)
        judged.append((cell, sure))
        run = in_magics(sure)
        for text in in_magics(own):
            check(text, where, lambda *args: compile(*args, "exec", dont_inherit=True), text in run)  # as they do: without await

    cells = steps["shared"] + [cell for step in steps["steps"].values() for cell in step["cells"]]
    for cell in sorted(cells, key=lambda cell: cell["cell"]):
        try:
            check(cell["code"], f"cell {cell['cell']}", compiled)
        except SyntaxError as e:
            line = e.lineno or 1
            shell = SHELL_LINE.match("\n".join(cell["code"].split("\n")[line - 1 : line]))
            there = shell and re.sub(r"^!(cd|export)\b", lambda found: {"cd": "%cd", "export": "%env"}[found[1]], f"!{shell[1].strip()}")  # with ! they set nothing
            hint = f": a line of a shell begins with {there[0]}, as {there}" if there else ""
            return cell, *(magic_above(line, cell["code"], by_files.union(*map(sets, every))) or (line, f"syntax error: {e.msg}{hint}"))
        except (RecursionError, MemoryError):  # too deep for this machine's Python, and maybe not for the pods'
            return None
    known = by_files.union(files, *map(sets, every))
    if any(BRINGS.search(text) for text in [*files.values(), *(cell["code"] for cell in cells)]):
        known.add("import")
    if any(step.get("image") for step in steps["steps"].values()):  # an image of one's own may have any module
        known.add("*.py")
    ran = {id(arg) for node in every if runs_file(node)[0] for arg in node.args}
    texts = [node.value for node in every if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in ran] + list(files.values())
    if any(ELSEWHERE.search(text) for text in files.values()):
        known.add("*")
    for cell, sure in judged:
        for node in sure:
            if why := needs(node, known) or "import" not in known and missing(node, files, texts):
                return cell, node.lineno, why


def runs_file(node):
    """Returns the line that runs a Python file, by %run or as a command, and the file; or None twice."""
    _, magic, line = (*(magic_call(node) or ()), None, None, None)[:3]
    if magic == "run" and not re.search(r"[{$~]", line) and (found := FILE.match(line)):
        return f"%run {line}", found[2].strip("\"'")
    command = node.args[0] if isinstance(node, ast.Call) and of_ipython(node.func) and node.func.attr in ("system", "getoutput") and node.args else None
    if isinstance(command, ast.Constant) and "||" not in str(command.value) and (found := PYTHON_FILE.match(str(command.value))):
        return f"!{command.value}", found[1]
    return None, None


def missing(node, files, texts):
    """Returns why a node runs no Python file for want of it, or None. texts are those of the notebook and its files: its code may write the file."""
    line, file = runs_file(node)
    file = os.path.normpath(file or "/")
    if file.startswith("/") or {file, f"{file}.py"} & set(files) or any(os.path.basename(file) in text for text in texts):
        return None
    return f"{line}: a step has no file {file}: give it with --file, whose files have no folder, or tag the cell \"skip\""


def newer_string(code):
    """Returns the line of an f-string that only a Python from 3.12 on reads, or None. It needs such a Python to see one."""
    around = []  # what ends the f-strings around
    for each in tokenize.generate_tokens(io.StringIO(code).readline) if sys.version_info >= (3, 12) else []:
        kind = tokenize.tok_name[each.type]
        if kind == "FSTRING_END":
            around.pop()
        outer = around[:-1] if kind == "FSTRING_MIDDLE" else around  # text is in its own f-string, too
        if outer and (kind == "COMMENT" or "\\" in each.string or any(quote in each.string or len(quote) == 1 and "\n" in each.string for quote in outer)):
            return each.start[0]
        if kind == "FSTRING_START":
            around.append(each.string.lstrip("rRfFuUbB"))
    return None


def definitions(cells, future=0):
    """Returns what cells import and define, outside of all blocks: by name, code that does it again, or None where they assign another value.
    future are the flags of the cells before."""
    imports = ast.Import, ast.ImportFrom
    kinds = *imports, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    found = []
    for cell in cells:
        where = f"cell {cell['cell']}"
        for node in ast.parse(cell["code"]).body:
            made = compiled_tree(ast.Module([node], []), where, future=future | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            names = {each.argval for each in dis.get_instructions(made) if each.opname in ("STORE_NAME", "DELETE_NAME")}
            imported = {(n.asname or n.name).split(".")[0] for each in ast.walk(node) if isinstance(each, imports) for n in each.names}
            if isinstance(node, kinds) or names and defines(getattr(node, "value", None)):
                future |= made.co_flags & FUTURES
                found.append((names | imported & {"*"}, made))
            else:
                found.append((names - imported, None))  # what a block imports has its name everywhere
                inside = definitions(({**cell, "code": text} for text in in_magics(ast.walk(node), leaving=True)), future)
                found += inside if isinstance(node, (ast.Expr, ast.Assign)) else [(what, None) for what, _ in inside]
    return found


def defines(value):
    """Returns whether a value is a lambda, less one whose defaults are values of then, or calls what makes a class or a type."""
    if isinstance(value, ast.Lambda):
        return all(each is None or isinstance(each, ast.Constant) for each in value.args.defaults + value.args.kw_defaults)
    called = getattr(value, "func", None)
    return (getattr(called, "id", None) or getattr(called, "attr", None)) in MAKERS


def assigned(name, cells):
    """Returns where cells last assign a name, as `cell C, line L: `; or nothing."""

    def lines(code):
        tree = ast.parse(code)
        own = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)]
        return own + [line for text in in_magics(ast.walk(tree), leaving=True) for line in lines(text)]

    where = ""
    for cell in cells:
        if found := lines(cell["code"]):
            where = f"cell {cell['cell']}, line {max(found)}: "
    return where


def define(definitions, names, errors=False):
    """Runs definitions, and returns those that fail: a step may do without."""
    failed = []
    for what, code in definitions:
        try:
            exec(code, names)
        except Exception as e:
            failed.append((what, f"{type(e).__name__}: {e}" if errors else code))
    return failed


def elsewhere(name, step, steps):
    """Returns which step sets a name and does not come before this one, as an error's reason; or None."""
    for other in sorted(steps.keys() - {step, *steps[step]["after"]}):
        if step not in steps[other]["after"] and any(name in what for what, _ in definitions(steps[other]["cells"])):
            return f"step {other} sets it, and no tag prev: has it come before this one"


def plain(value):
    """Returns a value as JSON has it: also numpy's numbers and arrays."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {k.tolist() if hasattr(k, "tolist") else k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def as_json(value):
    try:
        text = json.dumps(plain(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        raise ValueError(f"result must be what JSON can write, got {type(value).__name__}: {e}") from None
    if len(text) > MOST:
        raise ValueError(f"result must have at most {MOST} bytes as JSON, got {len(text)}: push large values as a model")
    return text


def given(name, default):
    """Returns the value that the environment gives a parameter, in the type of its default."""
    text = os.environ.get(f"PARAMETER_{name}")
    if text is None or isinstance(default, str):
        return default if text is None else text
    try:
        value = ast.literal_eval(text.capitalize() if isinstance(default, bool) else text)
    except (SyntaxError, ValueError):
        value = None
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(f"parameter {name} must be of type {type(default).__name__}, got {text!r}")
    return value


class Lines(list):
    """The lines that a command has printed."""

    l = list = property(lambda self: [*self])
    n = nlstr = property("\n".join)
    s = spstr = property(" ".join)
    p = paths = property(lambda self: [Path(line) for line in self if os.path.exists(line)])

    def grep(self, pattern, prune=False, field=None):
        """Returns the lines that a regular expression or a function finds; with prune the others."""
        found = pattern if callable(pattern) else lambda text: re.search(pattern, text, re.IGNORECASE)

        def part(line):
            words = line.split()
            return line if field is None else words[field] if -len(words) <= field < len(words) else ""

        return Lines(line for line in self if bool(found(part(line))) != prune)

    def fields(self, *wanted):
        """Returns words of each line, by their numbers; without numbers all, as lists."""
        lines = [line.split() for line in self]
        if not wanted:
            return lines
        kept = [" ".join(words[i] for i in wanted if -len(words) <= i < len(words)) for words in lines]
        return Lines(line for line in kept if line)

    def __reduce__(self):
        return [].__class__, ([*self],)


class UsageError(Exception):
    """A magic that cannot run, as IPython says it."""


def usage_error(why):
    """Returns the error of a magic that cannot run. A cell that handles it has imported its class, which is IPython's if the image has that."""
    return getattr(sys.modules.get("IPython.core.error"), "UsageError", UsageError)(why)


class Shell:
    """Runs a notebook's lines for Jupyter, as far as a script can. get_ipython returns it."""

    nothing = (  # they set how Jupyter shows things
        "autoawait autocall automagic autoreload autosave colors config doctest_mode load_ext matplotlib pdb pprint"
        " precision reload_ext xmode"
    ).split()
    commands = {"cat": "cat", "cp": "cp", "echo": "echo", "ll": "ls -l", "ls": "ls", "mkdir": "mkdir", "mv": "mv", "pip": "python3 -m pip", "rm": "rm", "rmdir": "rmdir"}
    scripts = {"bash": "bash", "python": "python3", "python3": "python3", "sh": "sh", "shell": "bash"}  # shell is Colab's
    pages = "HTML SVG html javascript js latex markdown svg".split()  # nobody sees them
    line_magics = {*nothing, *commands, *"aimport cd env pwd run set_env sx system time timeit".split()}
    cell_magics = {*scripts, *pages, *"! capture file script sx system time timeit writefile".split()}
    config = {}
    events = types.SimpleNamespace(register=lambda *_: None, unregister=lambda *_: None)  # of Jupyter, which runs no cell here

    def __init__(self, names):
        self.user_ns = names
        self.loop = asyncio.new_event_loop()
        self.left = "."  # the folder before %cd
        self.own = {}  # the notebook's magics, by kind and name
        self.future = 0  # flags of what cells have imported from __future__: in Jupyter they hold for all cells after

    def cell(self, code, where):
        """Runs a cell, with a loop of events around it, as in Jupyter."""

        keep_source(code, where)
        made = compiled(code, where, future=self.future)
        self.future |= made.co_flags & FUTURES

        async def run():
            value = eval(made, self.user_ns)
            if inspect.iscoroutine(value):
                await value

        self.loop.run_until_complete(run())

    def python(self, code, where, scope):
        """Runs a magic's Python, and returns the value of its last line if that is an expression."""
        scope = scope or self.user_ns
        body = ast.parse(code, where).body
        last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
        exec(compiled_tree(ast.Module(body, []), where, future=self.future), self.user_ns, scope)
        return eval(compiled_tree(last, where, "eval", self.future), self.user_ns, scope) if last else None

    def var_expand(self, text, scope):
        """Puts values for {EXPRESSION} and $NAME; if one has none, all of the text stays as it is."""

        def value(expression, conversion=None):
            return format(string.Formatter().convert_field(eval(expression, self.user_ns, scope), conversion))

        def dollar(found):
            return found[1] if found[1].startswith("$") else value(found[1])

        made = ""
        try:
            for literal, field, spec, conversion in string.Formatter().parse(text):
                # The shell, too, leaves single quotes alone.
                made += re.sub(r"\$(\$?[\w.]+)(?=(?:[^']*'[^']*')*[^']*$)", dollar, literal)
                if field is not None:
                    made += value(f"{field}:{spec}" if spec else field, conversion)
        except Exception:
            return text
        return made

    def program(self, args, kept=False):
        """Runs a program. Its output goes where print writes, or is returned."""
        sys.stdout.flush()
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if kept or sys.stdout is not sys.__stdout__ else {}
        done = subprocess.run(args, input="", text=True, errors="replace", **piped)
        if piped and not kept:
            sys.stdout.write(done.stdout)
        self.user_ns["_exit_code"] = done.returncode
        return done

    def shell(self, command, scope, kept=False):
        return self.program(["/bin/sh", "-c", self.var_expand(command, scope)], kept=kept).stdout

    def lines(self, command, scope):
        return Lines(self.shell(command, scope, kept=True).splitlines())

    def system(self, command):
        self.shell(command, scope_of_caller())

    def getoutput(self, command, split=True):
        lines = self.lines(command, scope_of_caller())
        return lines if split else lines.n

    def run_line_magic(self, magic, line, _stack_depth=1):
        scope = scope_of_caller()
        if own := self.own.get(("line", magic)):
            return self.run_own(own, scope, line)
        if magic not in ("time", "timeit"):
            line = self.var_expand(line, scope).strip()
        if why := unable(magic, line):
            raise usage_error(why)
        if magic in self.nothing:
            return None
        if magic == "aimport":
            for name in filter(None, re.split(r"[\s,]+", line)):
                if not name.startswith("-"):
                    self.user_ns[name.split(".")[0]] = __import__(name)
            return None
        if magic in self.commands:
            self.shell(f"{self.commands[magic]} {line}", scope)
            return None
        if magic in ("sx", "system"):
            return self.lines(line, scope)
        if magic == "time":
            return self.timed(untimed(line), "%time", scope)
        if magic == "timeit":
            return self.timeit(line, None, scope)
        if magic == "pwd":
            return os.getcwd()
        if magic == "cd":
            quiet = line.startswith("-q")
            to = re.sub(r"""^(["'])(.*)\1$""", r"\2", line.removeprefix("-q").strip())
            was = os.getcwd()
            os.chdir(self.left if to == "-" else os.path.expanduser(to or "~"))
            self.left = was
            if not quiet:
                print(os.getcwd())
            return None
        if magic in ("env", "set_env"):
            return self.env(magic, line)
        if magic == "run":
            return self.run_file(*shlex.split(line))
        raise usage_error(f"a step has no code for %{magic}")

    def magic(self, text):
        return self.run_line_magic(*f"{text.lstrip('%')} ".split(" ", 1))

    def run_cell_magic(self, magic, line, cell):
        scope = scope_of_caller()
        if own := self.own.get(("cell", magic)):
            return self.run_own(own, scope, line, cell)
        line = self.var_expand(line, scope).strip() if magic != "timeit" else line
        if why := unable(magic, line, cell=True):
            raise usage_error(why)
        if magic in self.pages:
            return None
        if magic in ("!", "sx", "system"):
            return self.lines(cell, scope)
        if magic in self.scripts or magic == "script":
            return self.script(([self.scripts[magic]] if magic in self.scripts else []) + shlex.split(line), cell)
        if magic in ("file", "writefile"):
            *options, file = shlex.split(line)
            with open(os.path.expanduser(file), "a" if options else "w") as f:
                f.write(cell + "\n")
            return None
        if magic == "time":
            return self.timed(cell, "%%time", scope)
        if magic == "timeit":
            return self.timeit(line, cell, scope)
        if magic == "capture":
            out, err = io.StringIO(), io.StringIO()
            options = [word for word in line.split() if word.startswith("-")]
            with contextlib.ExitStack() as kept:
                if "--no-stdout" not in options:
                    kept.enter_context(contextlib.redirect_stdout(out))
                if "--no-stderr" not in options:
                    kept.enter_context(contextlib.redirect_stderr(err))
                self.python(cell, "%%capture", scope)
            for name in line.split():
                if not name.startswith("-"):
                    self.user_ns[name] = Captured(out.getvalue(), err.getvalue())
            return None
        raise usage_error(f"a step has no code for %%{magic}")

    def run_own(self, function, scope, line, *cell):
        """Runs a magic of the notebook's, with what its decorators ask for."""
        if not hasattr(function, "_ipython_magic_no_var_expand"):
            line = self.var_expand(line, scope)
        more = {"local_ns": scope or self.user_ns} if hasattr(function, "needs_local_scope") else {}
        return function(line.strip(), *cell, **more)

    def show_usage(self):
        raise usage_error(unable("pinfo", ""))

    def register_magic_function(self, function, magic_kind="line", magic_name=None):
        """Adds a magic of the notebook's. In place of the function it may have a name, as a decorator."""
        if isinstance(function, str):
            return lambda named: self.register_magic_function(named, magic_kind, function)
        self.own.update(((kind, magic_name or function.__name__), function) for kind in magic_kind.split("_"))
        return function

    def run_file(self, option, *words):
        """Runs a Python file, with the notebook's names (-i) or without them."""
        file, *arguments = words if option == "-i" else (option, *words)
        if not file.endswith(".py") and not os.path.exists(file):
            file += ".py"
        names = {**(self.user_ns if option == "-i" else {}), "__name__": "__main__", "__file__": file}
        before, sys.argv = sys.argv, [file, *arguments]
        try:
            exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), names)
        except SystemExit as e:
            if e.code:
                raise
        finally:
            sys.argv = before
        self.user_ns.update((name, value) for name, value in names.items() if not name.startswith("_"))

    def script(self, words, text):
        """Runs a program with a script as its input. Options are those of IPython's that a step can have."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in "--out", "--err":
            parser.add_argument(name)
        parser.add_argument("--no-raise-error", action="store_true")
        options, command = parser.parse_known_args(words)
        sys.stdout.flush()
        piped = sys.stdout is not sys.__stdout__
        done = subprocess.run(
            command, input=text, text=True, errors="replace", stdout=subprocess.PIPE if piped or options.out else None, stderr=subprocess.PIPE if piped or options.err else None
        )
        for name, kept, stream in (options.out, done.stdout, sys.stdout), (options.err, done.stderr, sys.stderr):
            if name:
                self.user_ns[name] = kept
            elif kept:
                stream.write(kept)
        if not options.no_raise_error:
            done.check_returncode()

    def timed(self, code, where, scope):
        began = time.perf_counter()
        value = self.python(code, where, scope)
        print(f"Wall time: {time.perf_counter() - began:.3g} s")
        return value

    def timeit(self, line, cell, scope):
        """Times line, or cell after line."""
        given = TIMEIT_OPTIONS.match(line)
        line = line[given.end() :]
        number, repeat = (int(([0] + re.findall(rf"-{option}\s*(\d+)", given[0]))[-1]) for option in "nr")
        repeat = repeat or 7
        timer = timeit.Timer(*(line, "pass") if cell is None else (cell, line or "pass"), globals={**self.user_ns, **scope})
        number = number or timer.autorange()[0]
        runs = timer.repeat(repeat, number)
        times = [each / number for each in runs]
        said = f"{min(times):.3g} s per loop (best of {repeat} runs, {number} loops each)"
        flags = "".join(re.findall(r"-([tcqpo]+)", given[0]))
        if "q" not in flags:
            print(said)
        if "o" in flags:
            return types.SimpleNamespace(
                loops=number, repeat=repeat, all_runs=runs, timings=times, best=min(times), worst=max(times), average=statistics.fmean(times), stdev=statistics.pstdev(times)
            )

    def env(self, magic, line):
        name, equals, value = re.match(r"([^=\s]*)\s*(=?)\s*(.*)", line).groups()
        if magic == "env" and not line:
            return dict(os.environ)
        if magic == "env" and not equals and not value:
            return os.environ[name]
        os.environ[name] = value
        print(f"env: {name}={value}")
        return None


def scope_of_caller():
    """Returns the names that the notebook's own code has where it calls the shell."""
    frame = sys._getframe(2)
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)


class Captured:
    """The output that %%capture has kept."""

    def __init__(self, stdout, stderr):
        self.stdout, self.stderr, self.outputs = stdout, stderr, []

    def __str__(self):
        return self.stdout

    def show(self):
        sys.stdout.write(self.stdout)
        sys.stderr.write(self.stderr)

    __call__ = show


def display(*values, display_id=None, **_):
    for value in values:
        print(value)
    if display_id:
        return types.SimpleNamespace(display_id=display_id, display=display, update=display)


class Shown:
    """What only Jupyter can show, or set."""

    def __init__(self, *_, **__):
        pass

    def __repr__(self):
        return f"<IPython.{type(self).__name__} object>"


def ipython(shell):
    """Returns modules in the place of IPython's that notebooks import to show things; none if the image has IPython."""
    if importlib.util.find_spec("IPython"):
        return {}
    modules = {name: types.ModuleType(name) for name in IPYTHON}

    def shown(name):
        if name.startswith("_"):
            raise AttributeError(name)
        return type(name, (Shown,), {})

    for name, module in modules.items():
        module.get_ipython, module.display, module.clear_output, module.__path__ = lambda: shell, display, lambda wait=False: None, []
        module.__getattr__ = shown
    modules["IPython"].display = modules["IPython.display"]
    modules["IPython.core.error"].UsageError = UsageError
    for kind in "line", "cell", "line_cell":
        setattr(modules["IPython.core.magic"], f"register_{kind}_magic", functools.partial(shell.register_magic_function, magic_kind=kind))
    for name, mark in ("needs_local_scope",) * 2, ("no_var_expand", "_ipython_magic_no_var_expand"):
        setattr(modules["IPython.core.magic"], name, lambda function, mark=mark: setattr(function, mark, True) or function)
    modules["IPython"].version_info = 8, 31, 0, ""  # matplotlib asks for it, and for the events
    modules["IPython"].__version__ = "8.31.0"
    return modules


class Lacking:
    """In the place of what a step cannot load. What has one cannot be pickled."""

    def __init__(self, *_, **__):
        pass

    append = extend = __setitem__ = __setstate__ = __init__  # as pickle fills them

    def __reduce_ex__(self, _):
        raise TypeError


def unkept(step, why):
    return f"step {step} has left it and cannot hand it on: {why[:500]}"


def load(step):
    """Returns what a step before has left: values by name, and by other names the step that cannot hand them on, and why. What needs a class or
    a module that is not here is among these."""
    import joblib

    lacks, found = [], pickle._Unpickler.find_class

    def find(unpickler, module, name):
        try:
            return found(unpickler, module, name)
        except Exception as e:
            lacks.append(f"{type(e).__name__}: {e}")
            return type(name, (Lacking,), {})

    pickle._Unpickler.find_class = find  # that of joblib, too
    try:
        kept, gone = joblib.load(f"/tmp/{step}/names.joblib")
    finally:
        pickle._Unpickler.find_class = found
    for name in list(kept) if lacks else []:
        try:
            joblib.dump(kept[name], "/tmp/one.joblib")
        except Exception:
            del kept[name]
            gone[name] = step, unkept(step, ", ".join(dict.fromkeys(lacks)))
    return kept, gone


def main(file, step, before):
    import joblib

    steps = json.loads(Path(file).read_text())
    own = steps["steps"][step]
    # Cells are a program of their own, so that their classes can be pickled by name. Those of this program are in "run".
    program = types.ModuleType("__main__")
    names = vars(program)
    sys.modules["run"], sys.modules["__main__"] = sys.modules["__main__"], program
    Captured.__module__ = "run"
    shell = Shell(names)
    builtins.get_ipython, builtins.display = lambda: shell, display
    sys.modules.update(ipython(shell))

    hand_out("result", "null")
    hand_out("metrics", "{}")
    hand_out("names", "")
    files = [each for each in Path().glob("*") if each.is_file() and each.name not in ("run.py", Path(file).name)]
    if bad := broken(steps, {each.name: each.read_text("utf-8", "replace") for each in files}):
        cell, line, why = bad
        return failed(1, step, f"cell {cell['cell']}", f"line {line}: {why}")
    # Names that the steps before have left, by the last to say so: the step, and why it cannot hand the value on; None if it can.
    last, lost = {}, {}
    where = "the registry"

    def leave(status, leave=os._exit, own=os.getpid()):
        """Ends the process. With 0 the step itself would have succeeded, without its names."""
        leave(status or os.getpid() == own and failed(1, step, where, "os._exit ends the step at once, and what it has is lost"))

    os._exit = leave
    try:
        left = {name: modelcar("pull", image, f"/tmp/{name}") for name, image in before}
    except subprocess.CalledProcessError as e:  # another step has pushed it: it is not this one's fault
        return failed(TEMP_FAIL, step, where, e.stderr.strip())
    try:
        parameters = steps["parameters"]
        for cell in steps["shared"]:
            where = f"cell {cell['cell']}"
            shell.cell(cell["code"], where)
            # As soon as it has its default: what comes later may use it.
            for name in [name for name in parameters if name in names]:
                names[name] = given(name, names[name])
                parameters = [each for each in parameters if each != name]
        shared = dict(names)
        # Classes come before their values, and definitions that need a value after it.
        cells = [cell for before in own["after"] for cell in steps["steps"][before]["cells"]]
        for cell in cells:
            keep_source(cell["code"], f"cell {cell['cell']}")
        again = [each for each in definitions(cells, shell.future) if each[1]]
        for _, made in again:
            shell.future |= made.co_flags & FUTURES
        undefined, values = define(again, names), {}
        for name in left:
            where = f"the names that step {name} has left"
            kept, gone = load(name)
            for each, (origin, why) in [*gone.items(), *((each, (name, None)) for each in kept)]:
                # A reason that is only passed on says nothing of what others have left next to its origin, or after it.
                if origin == name or each not in last or last[each][0] in steps["steps"][origin]["after"]:
                    values.pop(each, None)
                    last[each] = origin, why
            values.update(kept)
        lost = {each: why for each, (_, why) in last.items() if why is not None}
        names.update(values)
        for name in lost:
            names.pop(name, None)  # it is no longer what its definition makes
        inherited = set(values)
        for what, error in define([(what, code) for what, code in undefined if not {*values, *lost} & what], names, errors=True):
            say(step=step, not_defined=sorted(what), error=error)
        was = dict(names)
        for cell in own["cells"]:
            where = f"cell {cell['cell']}"
            shell.cell(cell["code"], where)
        where = "result"
        try:
            hand_out("result", as_json(names.get("result")))
        except ValueError as e:
            raise ValueError(f"{assigned('result', own['cells'])}{e}") from None
        measured = {}
        for name in own.get("metrics", []):
            where = f"metric {name}"
            measured[name] = float(names[name])
            if not math.isfinite(measured[name]):  # JSON has no NaN
                raise ValueError(f"metric {name} must be a finite number, got {measured[name]}")
            hand_out("metrics", json.dumps(measured))
    except BaseException as e:  # also of a cell that exits, interrupts itself, or awaits what is canceled: it has not ended
        traceback.print_exc()
        if isinstance(e, subprocess.CalledProcessError) and e.returncode == TEMP_FAIL:  # the cell's own modelcar
            return failed(TEMP_FAIL, step, where, (e.stderr or str(e)).strip())
        why = isinstance(e, NameError) and (lost.get(e.name) or elsewhere(e.name, step, steps["steps"]))
        return failed(1, step, where, f"{type(e).__name__}: {e}" + (f": {why}" if why else ""))

    values = {n: v for n, v in names.items() if not n.startswith("_") and not isinstance(v, NO_VALUES)}
    # The next step runs definitions outside of blocks again. A value that needs another definition cannot be kept.
    own_names, defined = set(), {name for what, _ in again for name in what} - lost.keys()
    for what, made in definitions(own["cells"]):
        own_names.update(what)
        (defined.update if made else defined.difference_update)(what)
    # A branch that was not taken has replaced nothing.
    defined.update(name for what, _ in again for name in what if name in names and names[name] is was.get(name, was))
    for name, value in list(names.items()):
        if isinstance(value, NO_VALUES) and shared.get(name) is not value and name not in defined:
            del names[name]
            if not (name.startswith("_") or name in shared or "*" in defined and name not in own_names):
                values[name] = value  # it may be another name of what can be had, such as a module's function
    # What the next steps get from no step before, either: why, nothing if it was deleted, or None if a definition makes it.
    kept, gone = {}, {name: last[name] for name in lost}
    for name in (inherited | own_names) - shared.keys():
        gone[name] = step, None if name in defined else unkept(step, "its name begins with _") if name.startswith("_") else ""
    for name, value in values.items():
        if name in shared:
            continue
        try:
            if isinstance(value, types.BuiltinFunctionType) and not isinstance(value.__self__, (types.ModuleType, types.NoneType, type)):
                raise TypeError(f"a method of a {type(value.__self__).__name__}, which would be another one")
            joblib.dump(value, "/tmp/one.joblib")
            kept[name] = value
            gone.pop(name, None)
        except Exception as e:  # whatever a value's own pickling raises
            gone[name] = step, unkept(step, f"{type(e).__name__}: {e}")
    not_kept = [name for name, (origin, why) in gone.items() if why and origin == step and name in values]
    not_kept += [name for name in values if name in shared and shared[name] is not values[name]]
    folder = Path("/tmp/left")
    folder.mkdir()
    joblib.dump((kept, gone), folder / "names.joblib")
    try:
        hand_out("names", modelcar("push", folder, f"{os.environ['STORE']}:{os.environ['RUN']}-{step}"))
    except subprocess.CalledProcessError as e:
        return failed(e.returncode, step, "handing its names on", e.stderr.strip())
    say(step=step, names=sorted(kept), not_kept=sorted(not_kept), seconds=round(time.monotonic() - BEGAN, 3))
    return 0


def check():
    if sys.version_info < (3, 11):
        return "Python %d.%d has another grammar than the steps' 3.11" % sys.version_info[:2]
    bad = broken(**json.load(sys.stdin))
    if bad:
        cell, line, why = bad
        say(cell=cell["cell"], line=line, error=why)


if __name__ == "__main__":
    BEGAN = time.monotonic()
    if CHECKS:
        sys.exit(check())
    # Process 1 of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    # As in Jupyter, the working directory has the files and can be written to.
    steps, work = Path(sys.argv[1]).resolve(), Path("/tmp/work")
    work.mkdir(exist_ok=True)
    for file in steps.parent.glob("*"):
        if file.name.startswith(".."):  # the folder of a ConfigMap's version
            continue
        if not (work / file.name).exists():
            (work / file.name).symlink_to(file.resolve())
    os.chdir(work)
    sys.path.insert(0, "")
    sys.exit(main(steps, sys.argv[2], [each.split("=", 1) for each in sys.argv[3:]]))

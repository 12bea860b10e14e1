"""Show the library's own code on a page (used by every chapter).

What a page shows first is the thought: the code without long docstrings and
without the checks that only refuse bad input. All of it is one click away.
"""

import ast
import inspect
import io
import textwrap
import tokenize
from fnmatch import fnmatchcase
from typing import Any

#: Calls that, as a statement of their own, only refuse bad input: patterns
#: of the called name (``self.check_input``) or of its last part
#: (``check_input``). A call whose value is used is never folded.
CHECKS = ("_validate.*", "check", "check_*", "_check", "_check_*")
#: A class with more lines than this, blank ones, docstrings and checks
#: apart, is shown as its `forward`.
LONG = 60

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _is_check(node: ast.stmt) -> bool:
    """Whether a statement does nothing but refuse bad input."""
    match node:
        case ast.Expr(value=ast.Call(func=called)):
            name = ast.unparse(called)
            names = name, name.rpartition(".")[2]
            return any(fnmatchcase(n, p) for n in names for p in CHECKS)
        case ast.For(body=body, orelse=[]):
            return all(map(_is_check, body))
        case ast.If(test=test, body=body, orelse=orelse):
            binds = any(isinstance(n, ast.NamedExpr) for n in ast.walk(test))
            return not binds and all(
                isinstance(part, ast.Raise) or _is_check(part)
                for part in (*body, *orelse)
            )
    return False


def _is_docstring(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _span(first: ast.stmt, last: ast.stmt | None = None) -> range:
    """The lines of a statement, or from one to another, decorators too."""
    decorators = getattr(first, "decorator_list", [])
    start = min([first.lineno, *(d.lineno for d in decorators)])
    end = (last or first).end_lineno
    assert end is not None
    return range(start, end + 1)


def _asides(tree: ast.AST) -> dict[str, set[int]]:
    """The lines of long docstrings and of checks, by what they are."""
    found: dict[str, set[int]] = {"docstring": set(), "checks": set()}
    for node in ast.walk(tree):
        if not isinstance(node, _Function | ast.ClassDef):
            continue
        body = node.body
        if _is_docstring(body[0]) and len(body) > 1:
            if len(_span(body[0])) > 1:
                found["docstring"].update(_span(body[0]))
            body = body[1:]
        if isinstance(node, _Function):
            checks = [part for part in body if _is_check(part)]
            if len(checks) < len(body):  # of a function of checks all is shown
                for part in checks:
                    found["checks"].update(_span(part))
    return found


def _without(code: str, cut: set[int]) -> str:
    """Source without some of its lines, numbered from 1.

    The comments right above a line that goes, go with it, and so do blank
    lines that would stand doubled or at the head of a block.
    """
    lines = code.splitlines()
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(code).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip()[:1] == "#"
    }
    for number in sorted(cut):
        while number - 1 in comments:
            number -= 1
            cut = cut | {number}
    kept: list[str] = []
    for number, line in enumerate(lines, 1):
        blank = not line.strip()
        opened = not kept or kept[-1].rstrip().endswith((":", "("))
        if number in cut or (blank and (opened or not kept[-1].strip())):
            continue
        kept.append(line)
    return "\n".join(kept).rstrip()


def shorten(code: str, long: int = LONG) -> tuple[str, list[str]]:
    """The thought of a function or class: its source with whole lines left out.

    Nothing is added, changed or moved, and what is left parses.

    Args:
        code: source of one function or class.
        long: a class of more lines than this is cut down to its ``forward``,
            if it has one.

    Returns:
        The short source, and what was left out, in words.
    """
    tree = ast.parse(code)
    asides = _asides(tree)
    said = [name for name, lines in asides.items() if lines]
    cut = set().union(*asides.values())
    short = _without(code, cut)
    top = tree.body[0]
    if isinstance(top, ast.ClassDef):
        size = sum(bool(line.strip()) for line in short.splitlines())
        named = {getattr(part, "name", ""): part for part in top.body}
        if size > long and "forward" in named:
            inside = _span(top.body[0], top.body[-1])
            cut |= set(inside) - set(_span(named["forward"]))
            short = _without(code, cut)
            said = ["the rest of the class", *said]
    return short, said


class Source:
    """The source of a function or class of ``linear_time``, for display.

    Args:
        obj: what to show: a function, a class, or a method by its class
            (``Mamba.step``); a kernel of Triton is its function.
        first, last: how the first and the last line begin, where only some
            lines are shown.

    Raises:
        TypeError: the object is not from ``linear_time``. A page shows the
            library's code, never a copy of it.
        ValueError: no line begins so, or several do.
    """

    def __init__(self, obj: Any, first: str = "", last: str = "") -> None:
        obj = inspect.unwrap(getattr(obj, "fn", obj))
        module = getattr(obj, "__module__", None) or ""
        if module.split(".")[0] != "linear_time":
            raise TypeError(
                f"obj: expected a function or class of linear_time, got {obj!r}"
            )
        self.name = f"{module}.{obj.__qualname__}"
        self.code = textwrap.dedent(inspect.getsource(obj)).rstrip()
        self.short, self.folded = shorten(self.code)
        self.partly = bool(first)
        if first:
            lines = self.code.splitlines()
            cut = lines[_line(lines, first) : _line(lines, last or first) + 1]
            self.short = textwrap.dedent("\n".join(cut))
            self.folded = ["the lines around them"]

    def __repr__(self) -> str:
        return f"<source of {self.name}>"

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> dict[str, str]:
        text = f"```python\n{self.short}\n```"
        if self.folded and not self.partly:
            # the whole before it: opened, it takes its place
            name = self.name.removeprefix("linear_time.")
            text = (
                f'<details class="lt-full"><summary><code>{name}</code>, '
                f"shown without {_list(self.folded)}: all of it</summary>\n\n"
                f"```python\n{self.code}\n```\n\n</details>\n\n{text}"
            )
        return {"text/plain": repr(self), "text/markdown": text}


def _line(lines: list[str], begins: str) -> int:
    """Where the one line stands that begins so, indentation apart."""
    found = [
        i for i, line in enumerate(lines) if line.lstrip().startswith(begins)
    ]
    if len(found) != 1:
        raise ValueError(
            f"first, last: expected the beginning of one line, got {begins!r} "
            f"with {len(found)}"
        )
    return found[0]


def _list(words: list[str]) -> str:
    """``a, b and c``."""
    head, last = words[:-1], words[-1]
    return f"{', '.join(head)} and {last}" if head else last


def show(obj: Any, first: str = "", last: str = "") -> Source:
    """Display the source of a library function or class; end a cell with it.

    Long docstrings and argument checks are folded, one click away, and a long
    class is shown as its ``forward``: ``show(Mamba)``, ``show(Mamba.step)``.
    Of a long function some lines may be shown, and they alone, by how the
    first and the last begin: ``show(scan_forward, "ys = ()", "ys += ")``.
    """
    return Source(obj, first, last)

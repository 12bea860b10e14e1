"""The source on a page is the library's; what a page shows first is lines of it, and parses."""

import ast
import importlib
import inspect
import pkgutil
import textwrap

import nbformat
import pytest

import linear_time
from book import CHAPTERS, ROOT, load
from linear_time import figures
from linear_time.scan_triton_forward import scan_forward
from linear_time.show import LONG, Source, shorten, show

notebooks = load(ROOT / "book" / "notebooks.py")

SAMPLE = '''
@no_grad()
def forward(self, x: Tensor, delta: float) -> Tensor:
    """The layer.

    Args:
        x: input.
    """
    # what a caller may give
    # is said here
    self.check_input("x", x)
    _validate.layout("x", x, "batch", "length", self.d_model)
    batch, length, _ = _validate.layout("x", x, "batch", "length", None)

    if delta <= 0:
        raise ValueError(f"delta: expected > 0, got {delta}")
    for name in ("a", "b"):
        _check_state(name, x)
    checkpoints.fill(self, x)

    # the thought
    y = torch.empty(batch)

    if (z := self.gate(x)) is None:
        raise ValueError("kept: it binds a name")
    if length > 1:
        y = y + z
        self.check_input("y", y)
    return checked(y)
'''.strip()
SHORT = """
@no_grad()
def forward(self, x: Tensor, delta: float) -> Tensor:
    batch, length, _ = _validate.layout("x", x, "batch", "length", None)

    checkpoints.fill(self, x)

    # the thought
    y = torch.empty(batch)

    if (z := self.gate(x)) is None:
        raise ValueError("kept: it binds a name")
    if length > 1:
        y = y + z
        self.check_input("y", y)
    return checked(y)
""".strip()


def shown_by_chapters():
    """(chapter, source, what is committed) of every ``show(…)`` in a chapter."""
    for path in CHAPTERS:
        notebook = nbformat.read(path, as_version=4)
        for output, thing in notebooks.displayed(notebook, pictures=False):
            yield path.stem, thing, dict(output.data)


SHOWN = list(shown_by_chapters())


def library():
    """Every function, class and method of the package."""
    for info in pkgutil.walk_packages(linear_time.__path__, "linear_time."):
        module = importlib.import_module(info.name)
        for name, obj in vars(module).items():
            if getattr(obj, "__module__", None) != info.name:
                continue
            if inspect.isclass(obj):
                yield f"{info.name}.{name}", obj
                for inner, method in vars(obj).items():
                    method = getattr(method, "__func__", method)
                    own = getattr(method, "__module__", None) == info.name
                    if own and inspect.isfunction(method) and method.__name__ == inner:
                        yield f"{info.name}.{name}.{inner}", method
            elif inspect.isfunction(obj):
                yield f"{info.name}.{name}", obj


def is_part(short, code):
    """Whether the lines of ``short`` are lines of ``code``, in their order."""
    lines = iter(code.splitlines())
    return all(line in lines for line in short.splitlines())


def test_what_is_shown_first_is_the_thought():
    assert shorten(SAMPLE) == (SHORT, ["docstring", "checks"])


def test_what_has_nothing_to_fold_is_shown_whole():
    bundle = show(figures.label)._repr_mimebundle_()
    assert bundle["text/plain"] == "<source of linear_time.figures.label>"
    assert bundle["text/markdown"] == f"```python\n{inspect.getsource(figures.label).rstrip()}\n```"


def test_the_whole_is_one_click_away():
    text = show(Source.__init__)._repr_mimebundle_()["text/markdown"]
    code = textwrap.dedent(inspect.getsource(Source.__init__)).rstrip()
    fold, _, short = text.partition("</details>\n\n")
    assert f"```python\n{code}\n```\n\n" in fold
    assert "<code>show.Source.__init__</code>, shown without checks: all of it</summary>" in fold
    assert short == f"```python\n{show(Source.__init__).short}\n```"
    assert "raise TypeError" in fold and "raise TypeError" not in short


def test_a_long_class_is_shown_as_its_forward():
    lines = "\n".join(f"        self.part_{k} = {k}" for k in range(LONG))
    code = (
        'class Long(Module):\n    """Of many parts."""\n\n    def __init__(self):\n'
        f"{lines}\n\n    # in: (batch, length)\n    @no_grad()\n    def forward(self, x):\n"
        "        return self.part_1 * x\n\n    def step(self, x):\n        return x\n"
    )
    short, folded = shorten(code)
    assert short.splitlines() == [
        "class Long(Module):",
        "    @no_grad()",
        "    def forward(self, x):",
        "        return self.part_1 * x",
    ]
    assert folded == ["the rest of the class"]
    assert shorten(code, long=200)[0] == code.rstrip()
    assert "part_9" in shorten(code.replace("forward", "other"))[0]


def test_a_function_of_checks_and_a_lone_docstring_are_shown():
    for code in (
        "def check(x):\n    if x < 0:\n        raise ValueError(x)",
        'class Mixer(Protocol):\n    """Long.\n\n    Very.\n    """',
        'def f(x):\n    """Long.\n\n    Very.\n    """',
    ):
        assert shorten(code) == (code, [])


@pytest.mark.parametrize("shown", SHOWN, ids=[f"{s[0]}-{s[1].name}" for s in SHOWN])
def test_what_chapters_show_is_lines_of_the_source(shown):
    chapter, source, committed = shown
    partly = source.folded == ["the lines around them"]  # then moved to the left
    left = str.strip if partly else str
    assert is_part(*("\n".join(map(left, c.splitlines())) for c in (source.short, source.code)))
    ast.parse(source.short)
    assert source.folded or source.short == source.code
    assert committed == notebooks.bundle(source), (
        f"run: python book/notebooks.py renew chapters/{chapter}.ipynb"
    )


def test_chapters_show_much():
    """The search finds them: 54 when this was written."""
    assert len(SHOWN) > 40
    whole = sum(len(source.code.splitlines()) for _, source, _ in SHOWN)
    short = sum(len(source.short.splitlines()) for _, source, _ in SHOWN)
    assert short < 0.7 * whole


def test_everything_in_the_library_can_be_shown():
    seen = 0
    for name, obj in library():
        try:
            source = show(obj)
        except OSError:  # made by a decorator: there is no source
            continue
        assert is_part(source.short, source.code), name
        ast.parse(source.short)
        seen += 1
    assert seen > 300


@pytest.mark.bad_input
@pytest.mark.parametrize("foreign", [inspect.getsource, 3, "text"])
def test_show_refuses_what_is_not_the_librarys(foreign):
    with pytest.raises(TypeError, match="obj: expected a function or class of linear_time"):
        show(foreign)


def test_some_lines_of_a_function():
    """They are the source's own, moved to the left, and stand alone."""
    shown = show(scan_forward, "for k in tl.static_range", "ys +=")
    assert shown.short.splitlines() == [
        "for k in tl.static_range(T):",
        "    a = tl.exp2(deltas[k][:, None] * A)",
        "    h = a * h + xs[k][:, None] * Bs[k][None, :]",
        "    ys += (tl.sum(h * Cs[k][None, :], 1),)",
    ]
    page = shown._repr_mimebundle_()["text/markdown"]
    assert page == f"```python\n{shown.short}\n```"
    assert show(scan_forward, "ys = ()").short == "ys = ()"


@pytest.mark.bad_input
@pytest.mark.parametrize("begins", ["not there", "store("])
def test_a_line_that_is_not_the_only_one(begins):
    with pytest.raises(ValueError, match="expected the beginning of one line, got"):
        show(scan_forward, begins)

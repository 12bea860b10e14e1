"""The notebooks: normalised, executed, and showing the library's code instead of retyping it."""

import ast
import copy
import functools
import importlib
import inspect
import math
import os
import pkgutil
from pathlib import Path

import nbformat
import pytest

import linear_time
from book import CHAPTERS, NOTEBOOKS, ROOT, AtOnce, code_cells, load
from linear_time import scan

notebooks = load(ROOT / "book" / "notebooks.py")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_lint(path):
    assert notebooks.lint(path) == []


def cell_of(source, tags=(), count=None, printed=""):
    """A code cell if it has an execution count, else a Markdown cell, with its tags as typed."""
    if count is None:
        cell = nbformat.v4.new_markdown_cell(source)
    else:
        cell = nbformat.v4.new_code_cell(source, execution_count=count)
        if printed:
            cell.outputs = [nbformat.v4.new_output("stream", text=printed)]
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def prediction():
    """A prediction with its answer: stub, measuring cell, words."""
    cells = [
        cell_of("guess = None  # a number of steps", ["predict"], 2),
        cell_of("predict('steps', guess, 74)", ["answer"], 3, "steps:\n  measured 74\n"),
        cell_of("It takes longer than $1/\\rho$ says.", ["answer"]),
    ]
    for cell in cells:
        notebooks.mark_up(cell)
    return cells


def planted():
    """Name -> a fault to plant in a clean notebook, and a piece of the lint's answer to it."""

    def not_executed(nb):
        nb.cells[1].execution_count = None

    def error(nb):
        nb.cells[1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]

    def tolerance(nb):
        nb.cells.append(nbformat.v4.new_code_cell("assert torch.allclose(x, y, atol=1e-12)"))

    def image(nb):
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", {"image/png": "aGk="})]

    def stderr(nb):
        nb.cells[1].outputs = [nbformat.v4.new_output("stream", name="stderr", text="warning")]

    def brace(nb):
        data = {"text/markdown": "below {state // 64} tokens", "text/plain": "<Markdown>"}
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", data)]

    def path(nb):
        nb.cells[1].outputs = [nbformat.v4.new_output("stream", text="in /home/me/x")]

    def address(nb):
        nb.cells[1].outputs = [nbformat.v4.new_output("stream", text="<f at 0x7f00aa11>")]

    def figure(nb):
        data = {"text/plain": "<Figure size 10x10 with 1 Axes>"}
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", data)]

    def drawing(nb):
        data = {"text/plain": "<drawing>", "text/html": '<svg role="img" aria-label="A box."/>'}
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", data)]

    def caption(nb):
        label = 'aria-label="A box with a word, and an arrow."'
        data = {"text/plain": "<drawing>", "text/html": f'<svg role="img" {label}/>'}
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", data)]

    def title(nb):
        nb.cells[0].source = "# 13 · Other"

    def metadata(nb):
        nb.metadata["language_info"]["version"] = "3.11.7"

    def setup(nb):
        nb.cells[1].source = "import linear_time"

    def empty(nb):
        nb.cells.append(nbformat.v4.new_code_cell("", execution_count=2, id="empty"))

    def blank(nb):
        nb.cells.append(nbformat.v4.new_code_cell(" \n\n", execution_count=2, id="blank"))

    def unfolded(nb):
        cell = nbformat.v4.new_code_cell("x = 1", execution_count=2, id="open")
        cell.metadata["tags"] = ["solution"]
        nb.cells.append(cell)

    def imports(nb):
        nb.cells.append(cell_of("import math", ["imports"], count=2))

    def detour_without_heading(nb):
        nb.cells.append(cell_of("A proof.", ["detour"]))

    def detour_of_the_page(nb):
        nb.cells[0].metadata["tags"] = ["detour"]

    def detour_ends_inside(nb):
        nb.cells.append(cell_of("## A proof", ["detour"]))
        nb.cells.append(cell_of("So much for it.\n\n## Next"))

    def no_answer(nb):
        nb.cells += prediction()[:1]

    def no_unit(nb):
        rest = prediction()[1:]
        nb.cells += [cell_of("guess = None", ["predict"], count=2), *rest]

    def fewer_measured(nb):
        stub, *rest = prediction()
        stub.source += "\nother = None  # in steps"
        nb.cells += [stub, *rest]

    def lone_answer(nb):
        nb.cells += prediction()[1:]

    def heading_in_an_answer(nb):
        nb.cells += [*prediction(), cell_of("### Why", ["answer"])]

    def jpeg(nb):
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", {"image/jpeg": "aGk="})]

    def work(nb):
        nb.cells[1].outputs = [nbformat.v4.new_output("stream", text="/work/x")]

    def own_temporary(nb):
        data = {"text/plain": "Path('/tmp/x')"}
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", data)]

    def roleless(nb):
        label = 'aria-label="A box with a word, and an arrow."'
        data = {"text/plain": "<drawing>", "text/html": f"<svg {label}/>"}
        nb.cells[1].outputs = [nbformat.v4.new_output("display_data", data)]

    def second_count(nb):
        nb.cells.append(nbformat.v4.new_code_cell("x = 1", execution_count=3, id="third"))

    def invalid(nb):
        nb.cells[1].outputs = [nbformat.from_dict({"output_type": "stream", "text": "a"})]

    def level_one(nb):
        nb.cells.append(cell_of("# A proof", ["detour"]))

    def no_setup(nb):
        nb.cells[1].metadata["tags"] = []

    def text_prediction(nb):
        nb.cells += [cell_of("guess = None  # a number", ["predict"]), *prediction()[1:]]

    def more_measured(nb):
        stub, measured, words = prediction()
        measured.outputs[0].text += "other:\n  measured 3\n"
        nb.cells += [stub, measured, words]

    def captions(nb):
        nb.cells.append(cell_of("A caption of nothing.", ["caption"]))

    answers = {
        jpeg: "not stripped", work: "a path", own_temporary: "a path",
        tolerance: "the silent rtol", second_count: "count 3, expected 2",
        roleless: "a drawing without an alt",
        invalid: "not a valid notebook", level_one: "of level 2 or deeper", no_setup: "set-up",
        text_prediction: "is written 'name = None", more_measured: "their answer measures 2",
        captions: "captions are not written out",
        not_executed: "not executed", error: "an error", image: "not stripped", stderr: "stderr",
        brace: "no mathematics: {state // 64} tokens",
        path: "a path", address: "a memory address", figure: "a figure without an alt",
        drawing: "a drawing without an alt", caption: "without a caption", title: "the title",
        metadata: "metadata", setup: "set-up", empty: "empty",
        blank: "an empty code cell", unfolded: "not written out",
        imports: "not written out", detour_without_heading: "must begin with a heading",
        detour_of_the_page: "must begin with a heading", detour_ends_inside: "must begin its cell",
        no_answer: "no cell tagged 'answer'", no_unit: "is written 'name = None",
        fewer_measured: "2 predictions, and their answer measures 1",
        lone_answer: "must follow a prediction", heading_in_an_answer: "a heading inside",
    }  # fmt: skip
    return [pytest.param(fault, answer, id=fault.__name__) for fault, answer in answers.items()]


def clean_notebook():
    setup = nbformat.v4.new_code_cell("import linear_time")
    setup.metadata["tags"] = ["setup"]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# 12 · Test"), setup]
    notebooks.normalise(notebook)
    return notebook


def test_lint_accepts_a_clean_notebook(tmp_path):
    path = tmp_path / "12-test.ipynb"
    nbformat.write(clean_notebook(), path)
    assert notebooks.lint(path) == []


@pytest.mark.parametrize(("fault", "answer"), planted())
def test_lint_finds(fault, answer, tmp_path):
    path = tmp_path / "12-test.ipynb"
    notebook = clean_notebook()
    fault(notebook)
    nbformat.write(notebook, path)
    assert any(answer in line for line in notebooks.lint(path))


def shown(kind="display_data", **data):
    types = {"html": "text/html", "plain": "text/plain", "markdown": "text/markdown"}
    return nbformat.v4.new_output(kind, {types[name]: text for name, text in data.items()})


ALT = 'aria-label="A box with a word, and an arrow."'


@pytest.mark.parametrize(
    ("output", "metadata", "faults"),
    [
        (shown(plain="<f>", html=f'<svg role="img" {ALT}/>'), "caption", 0),
        (shown(plain="<f>", html=f'<svg role="group" {ALT}/>'), "caption", 0),
        (shown(plain="<f>", html=f'<svg role="list" {ALT}/>'), "caption", 1),
        (shown(plain="<f>", html='<svg role="img"/>'), "caption", 1),
        (shown(plain="<f>", html='<svg aria-hidden="true"/>'), "", 0),
        (shown(plain="<f>", html=f'<i data-interactive="x"><svg role="img" {ALT}/>'), "", 0),
        (shown(plain="<Figure size>"), "caption alt", 0),
        (shown(plain="<Figure size>"), "caption", 1),
        (shown(plain="<Figure size>"), "alt", 1),
        (shown(plain="<Figure size>"), "", 2),
        (shown(plain="'~/home/me', C:/x, 0x7f00aa, at 0x7f"), "", 0),
        (shown(plain="('/root/x')"), "", 1),
        (shown(plain='"C:\\\\Users"'), "", 1),
        (shown(plain="<f at 0xabcdef>"), "", 1),
        (shown(markdown="a {b}"), "", 1),
        (nbformat.v4.new_output("stream", text="a {b} in home/ or x/home/me"), "", 0),
        (nbformat.v4.new_output("stream", text="/tmp/x"), "", 1),
    ],
)
def test_what_lint_says_of_an_output(output, metadata, faults, tmp_path):
    notebook = clean_notebook()
    cell = nbformat.v4.new_code_cell("x = 1", execution_count=2, id="two", outputs=[output])
    sentence = "A sentence of six words, or seven."
    own = {"figure": {"caption": sentence}} if "caption" in metadata else {}
    cell.metadata["mystnb"] = own | ({"image": {"alt": sentence}} if "alt" in metadata else {})
    notebook.cells.append(cell)
    notebook.cells = notebooks.with_captions(notebook.cells)
    path = tmp_path / "12-test.ipynb"
    nbformat.write(notebook, path)
    found = notebooks.lint(path)
    assert len(found) == faults, found
    assert all(text.startswith("12-test.ipynb, cell 2: ") for text in found)


@pytest.mark.parametrize(
    ("name", "title", "right"),
    [
        ("12-test", "# 12 · Test", True), ("12-test", "# Test", False), ("glance", "# Test", True),
        ("glance", "Test", False), ("1a-test", "# Test", True),
    ],
)  # fmt: skip
def test_a_page_s_title_has_its_number(name, title, right, tmp_path):
    notebook = clean_notebook()
    notebook.cells[0].source = title
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(notebook, path)
    found = notebooks.lint(path)
    assert (found == []) == right and (right or f"{name}.ipynb, cell 0: the title" in found[0])


def test_a_notebook_of_nothing_is_told_all_that_it_lacks(tmp_path):
    path = tmp_path / "12-test.ipynb"
    empty = nbformat.v4.new_notebook()
    empty.metadata = nbformat.from_dict(notebooks.METADATA)
    nbformat.write(empty, path)
    title, setup = notebooks.lint(path)
    assert "the title" in title and setup.endswith("the first code cell is not the set-up cell")


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ([("## A", "detour"), ("### B\n\n## C", "")], [3]),
        ([("## A", "detour"), ("text\n\n### B", "")], []),
        ([("## A", "detour"), ("## B", "")], []),
        ([("### A", "detour"), ("## B", ""), ("text\n\n### C", "")], []),
        ([("### A", "detour"), ("x\n\n## B", "")], [3]),
        ([("## A", "detour"), ("### B", "detour"), ("x\n\n### C", "")], []),
        ([("text\n\n## A", "detour")], [2]),
    ],
)
def test_where_a_detour_ends(sources, says):
    cells = [*clean_notebook().cells, *(cell_of(text, tag.split()) for text, tag in sources)]
    assert [number for number, _ in notebooks.lint_layers("12", cells)] == says


def test_the_commands_say_and_write_what_changed(tmp_path, monkeypatch, capsys):
    """Lint names faults, and is 0 without; renew writes what it changed, and nothing else."""
    clean, stale, broken = (tmp_path / f"12-{name}.ipynb" for name in ("clean", "stale", "broken"))
    for path in (clean, stale, broken):
        nbformat.write(clean_notebook(), path)
    before = {}

    def command(*words):
        monkeypatch.setattr("sys.argv", ["notebooks.py", *map(str, words)])
        return notebooks.main(), capsys.readouterr()

    assert command("lint", clean)[0] == 0
    monkeypatch.setattr(notebooks, "lint", lambda path: [f"{path.stem}: a fault"] * 2)
    failed, said = command("lint", clean, stale)
    assert failed == 1 and said.out == "12-clean: a fault\n" * 2 + "12-stale: a fault\n" * 2

    def renew(notebook):
        if notebook.metadata["of"] == "broken":
            raise ImportError("no such drawing")
        if notebook.metadata["of"] == "stale":
            notebook.cells[0].source += " again"
        return 3 * (notebook.metadata["of"] == "stale")

    monkeypatch.setattr(notebooks, "renew", renew)
    for path in (clean, stale, broken):
        notebook = nbformat.read(path, 4)
        notebook.metadata["of"] = path.stem[3:]
        nbformat.write(notebook, path)
        before[path] = path.read_bytes()
    failed, said = command("renew", broken, clean, stale)
    assert failed and said.out == "12-stale.ipynb: 3 renewed\n"
    assert said.err == "12-broken.ipynb: no such drawing\n"
    assert [p.read_bytes() == old for p, old in before.items()] == [True, False, True]
    assert command("renew", clean, stale)[0] == 0


class Pool:
    """In the place of processes: the same work, here, one after the other."""

    given: list = []  # noqa: RUF012

    def __init__(self, max_workers):
        Pool.given.append(max_workers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def map(self, work, paths):
        return map(work, paths)


@pytest.mark.parametrize(("cores", "threads"), [(8, "4"), (3, "1"), (1, "1"), (None, "1")])
def test_notebooks_are_executed_side_by_side(cores, threads, tmp_path, monkeypatch, capsys):
    """With this checkout's source, and the cores shared out; one that fails is told, and is 1."""
    good, bad = tmp_path / "12-a.ipynb", tmp_path / "13-b.ipynb"
    ran = []

    def run(path):
        ran.append(path)
        return f"{path.name}: it broke" if path == bad else ""

    monkeypatch.setattr(notebooks, "run", run)
    monkeypatch.setattr(notebooks, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(notebooks.os, "cpu_count", lambda: cores)
    Pool.given.clear()
    monkeypatch.setenv("PYTHONPATH", "before")
    for paths, failed in (([good, good], 0), ([bad, good], 1)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv("PYTHONPATH", "before")
        monkeypatch.setattr("sys.argv", ["notebooks.py", "run", *map(str, paths)])
        assert notebooks.main() == failed
        assert os.environ["PYTHONPATH"] == f"{ROOT / 'src'}{os.pathsep}before"
        assert os.environ["OMP_NUM_THREADS"] == threads
    said = capsys.readouterr()
    assert ran == [good, good, bad, good] and Pool.given == [cores or 1] * 2
    assert said.out.splitlines() == ["12-a.ipynb: executed"] * 2 + [
        "13-b.ipynb: FAILED", "12-a.ipynb: executed"
    ]  # fmt: skip
    assert said.err == "13-b.ipynb: it broke\n"
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setattr(notebooks, "pages", lambda: [good])
    monkeypatch.setattr("sys.argv", ["notebooks.py", "run"])
    monkeypatch.setattr("sys.stdout", out := AtOnce())
    assert notebooks.main() == 0 and ran[-1] == good and os.environ["OMP_NUM_THREADS"] == "9"
    assert out.all_seen(), "each line as its notebook ends"


def test_the_pages_are_the_chapters_and_then_those_without_a_number():
    assert notebooks.pages() == NOTEBOOKS


@pytest.mark.parametrize("fails", [False, True])
def test_a_notebook_is_executed_in_its_folder_and_written(fails, tmp_path, monkeypatch):
    notebook = clean_notebook()
    notebook.cells.append(nbformat.v4.new_code_cell("1", id="one"))
    notebook.cells[1].source = "import linear_time  # by hand"
    notebook.cells[0].metadata["tags"] = ["setup"]
    path = tmp_path / "12-a.ipynb"
    nbformat.write(notebook, path)
    before, asked = path.read_bytes(), []

    class Client:
        def __init__(self, given, **options):
            asked.append((given, options))

        def execute(self):
            given = asked[0][0]
            assert given.cells[1].source == notebooks.setup_source()
            if fails:
                raise notebooks.CellExecutionError("it broke", "E", "x")
            given.cells[2].execution_count = 99

    monkeypatch.setattr(notebooks, "NotebookClient", Client)
    said = notebooks.run(path)
    options = {"timeout": 600, "kernel_name": "python3"}
    assert asked[0][1] == {**options, "resources": {"metadata": {"path": str(tmp_path)}}}
    if fails:
        assert said.startswith("12-a.ipynb: it broke") and path.read_bytes() == before
        return
    assert said == ""
    written = nbformat.read(path, 4)
    assert [cell.get("execution_count") for cell in written.cells] == [None, 1, 2]
    assert written.cells[0].source == "# 12 · Test"


def test_what_is_displayed_from_the_package_alone_is_renewed():
    """Cells that end with show(), or are one call of a picture; nothing else is executed."""
    new = nbformat.v4.new_code_cell

    def result(*kinds):
        return [
            nbformat.v4.new_output(kind, data={"text/plain": "old"}, execution_count=1)
            if kind == "execute_result"
            else nbformat.v4.new_output(kind, text="old")
            for kind in kinds
        ]

    sources = [
        "from linear_time.show import show\nfrom linear_time.scan import combine as join",
        "from linear_time.pictures.home import paths_drawing as paths\nfrom math import pi",
        "x = 1\nshow(join)", "paths()", "y = 2\npaths()", "join(1, 2)", "%time show(join)",
        "print(show(join))", "show(join)\n1", "paths().svg()",
    ]  # fmt: skip
    cells = [new(source) for source in sources]
    setup = new("show(join)", metadata={"tags": ["setup"]})
    words = nbformat.v4.new_markdown_cell("show(join)")
    for cell in (*cells, setup):
        cell.outputs = result("stream", "execute_result")
    given = nbformat.v4.new_notebook(cells=[words, setup, *cells])
    found = list(notebooks.displayed(given))
    assert [output for output, _ in found] == [cells[2].outputs[1], cells[3].outputs[1]]
    assert "def combine" in str(notebooks.bundle(found[0][1]))
    assert "<svg" in notebooks.bundle(found[1][1])["text/html"]
    changed = notebooks.renew(given)
    assert cells[2].outputs[1].data != {"text/plain": "old"}
    assert cells[4].outputs[1].data == {"text/plain": "old"}
    assert changed > 0 and notebooks.renew(given) == 0
    cells[3].outputs[1].data = {"text/plain": "old"}
    assert notebooks.renew(given) == 1


def test_what_a_notebook_keeps_of_a_thing():
    class Page:
        def _repr_html_(self):
            return "<p>"

        def __repr__(self):
            return "Page"

    class Both(Page):
        def _repr_mimebundle_(self):
            return {"text/plain": "own"}

    assert notebooks.bundle(Page()) == {"text/html": "<p>", "text/plain": "Page"}
    assert notebooks.bundle(Both()) == {"text/plain": "own"}


def test_outputs_are_normalised():
    """Counts, images and metadata; of streams the neighbours of one name are one."""
    new = nbformat.v4.new_output
    notebook = clean_notebook()
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("words"))
    cell = nbformat.v4.new_code_cell("1")
    notebook.cells.append(cell)
    image = {"image/png": "a", "image/jpeg": "b", "text/plain": "<Figure>"}
    cell.outputs = [
        new("stream", text="a"), new("stream", name="stderr", text="b"),
        new("stream", name="stderr", text="c"), new("display_data", image, metadata={"x": 1}),
        new("stream", name="stderr", text="d"),
        new("execute_result", {"text/plain": "1"}, execution_count=40),
    ]  # fmt: skip
    for key in ("execution", "collapsed", "scrolled", "trusted", "lines_to_next_cell"):
        cell.metadata[key] = notebook.cells[1].metadata[key] = True
    cell.metadata["kept"] = notebook.metadata["widgets"] = 1
    notebook.nbformat_minor = 4
    notebooks.normalise(notebook)
    assert [(o.get("name"), o.get("text")) for o in cell.outputs] == [
        ("stdout", "a"), ("stderr", "bc"), (None, None), ("stderr", "d"), (None, None)
    ]  # fmt: skip
    assert cell.outputs[2].data == {"text/plain": "<Figure>"} and cell.outputs[2].metadata == {}
    assert cell.outputs[4].execution_count == cell.execution_count == 2
    assert cell.metadata == {"kept": 1} and notebook.cells[1].metadata == {}
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == notebooks.METADATA
    assert [one.id for one in notebook.cells] == [f"cell-{n:03d}" for n in range(4)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("One two three four five six.", True), ("One two three four five six. ", True),
        ("One two three four five.", False), ("One two three four five six", False),
        ("", False), (None, False),
    ],
)  # fmt: skip
def test_what_is_a_sentence(text, says):
    assert notebooks.is_sentence(text) is says


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("# A\n\ntext\n### B\n#no\n####### seven", [(0, 1), (10, 3)]),
        ("```\n# code\n```\n## C", [(15, 2)]),
        ("text # no", []),
    ],
)
def test_headings_of_a_cell(source, found):
    assert notebooks.headings(cell_of(source)) == found
    assert notebooks.headings(cell_of(source, count=1)) == []


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("```{exercise} A\nx\n```", ":::{exercise} A\nx\n:::"),
        ("```{exercise} A\nx\n```\n\n", ":::{exercise} A\nx\n:::"),
        ("```{note}\nx\n```", None), ("```{exercise} A\nx", None), ("x\n```", None),
    ],
)  # fmt: skip
def test_which_fences_become_colons(source, made):
    assert notebooks.plain_exercise(source) == (made or source)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("math", lambda: math),
        ("math.pi", lambda: math.pi),
        ("os.path", lambda: os.path),
        ("linear_time.scan", lambda: scan),
        ("linear_time.scan.linear_scan", lambda: scan.linear_scan),
        ("pathlib.Path.exists", lambda: Path.exists),
    ],
)
def test_an_object_of_a_dotted_name(name, found):
    assert notebooks.library_object(name) is found()


@pytest.mark.parametrize(
    ("name", "error"),
    [("nowhere", ModuleNotFoundError), ("nowhere.at.all", ModuleNotFoundError),
     ("math.nothing", AttributeError)],
)  # fmt: skip
def test_an_object_that_is_not_there_is_named(name, error):
    with pytest.raises(error, match=name.rpartition(".")[2] if "math" in name else name):
        notebooks.library_object(name)


@pytest.mark.parametrize(
    ("text", "stray"),
    [
        ("below {state // 64} tokens", "{state // 64} tokens"),
        ("a set {1, 2}", "{1, 2}"),
        ("an end}", "}"),
        ("after $x_{0}$ and {y}, $z$", "{y}, "),
        ("$\\{0, 1\\}$, $$a_{b}\nc$$ and `{1: 2}`", None),
        ("```python\nd = {}\n```\nA row of {eq}`eq-1` {cite:p}`gu2023mamba`", None),
        (":::{exercise} A set\n:label: 12-a\n\n:::", None),
    ],
)
def test_a_brace_in_printed_words(text, stray):
    assert notebooks.stray_brace(text) == stray


def test_normalise_twice_is_once():
    notebook = clean_notebook()
    notebook.cells[1].outputs = [
        nbformat.v4.new_output("stream", text="a"), nbformat.v4.new_output("stream", text="b")
    ]  # fmt: skip
    notebook.cells[1].metadata["execution"] = {"iopub.status.busy": "now"}
    notebooks.normalise(notebook)
    once = nbformat.writes(notebook)
    notebooks.normalise(notebook)
    assert nbformat.writes(notebook) == once
    assert notebook.cells[1].outputs[0].text == "ab"
    assert "execution" not in notebook.cells[1].metadata


def test_normalise_fences_an_exercise_with_colons():
    """In plain Jupyter a fence of backticks would show its text as code, and no title."""
    notebook = clean_notebook()
    text = "```{exercise} A title\n:label: 12-x\n\nIts text, $x$.\n```"
    notebook.cells.append(nbformat.v4.new_markdown_cell(text))
    notebooks.normalise(notebook)
    colons = ":::{exercise} A title\n:label: 12-x\n\nIts text, $x$.\n:::"
    assert notebook.cells[-1].source == colons
    notebooks.normalise(notebook)
    assert notebook.cells[-1].source == colons


def test_normalise_writes_out_what_tags_mean():
    notebook = clean_notebook()
    notebook.cells += [
        cell_of("import math", ["imports"], 2), cell_of("## A proof", ["detour"]),
        cell_of("fig = 1", ["hide-input"], 3), *prediction(), cell_of("a = 1", ["solution"], 4),
    ]  # fmt: skip
    notebooks.normalise(notebook)
    _, setup, imports, detour, plot, stub, measured, words, solution = notebook.cells
    assert setup.source.startswith("# Set-up: ")
    assert setup.metadata == {"tags": ["remove-cell", "setup"], "jupyter": {"source_hidden": True}}
    assert imports.source == "# @title What this page imports\nimport math"
    assert imports.metadata == {
        "tags": ["hide-input", "imports"],
        "cellView": "form",
        "jupyter": {"source_hidden": True},
        "mystnb": {
            "code_prompt_show": "What this page imports",
            "code_prompt_hide": "Fold the imports",
        },
    }
    assert detour.metadata == {"tags": ["detour"], "jp-MarkdownHeadingCollapsed": True}
    assert plot.metadata["jupyter"] == {"source_hidden": True}
    assert stub.metadata == {"tags": ["predict"]}
    assert measured.metadata["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
    assert words.source == (
        "<details><summary>What was measured</summary>\n\n"
        "It takes longer than $1/\\rho$ says.\n\n</details>"
    )
    assert set(solution.metadata["tags"]) == {"hide-cell", "solution"}
    once = nbformat.writes(notebook)
    notebooks.normalise(notebook)
    assert nbformat.writes(notebook) == once
    detour.metadata["tags"] = measured.metadata["tags"] = []  # a tag taken back takes its marks
    notebooks.normalise(notebook)
    assert detour.metadata == measured.metadata == {"tags": []}


LONG = "\n".join(f"x_{k} = {k}" for k in range(23))


@pytest.mark.parametrize(
    ("cells", "answer"),
    [
        ([cell_of(LONG, count=2)], "more than 22 lines"),
        ([cell_of("assert 1\nassert 2", count=2)], "assertions alone"),
        ([cell_of("predict('a', None, 1)", count=2)], "lies open"),
    ],
    ids=["long", "assertions", "open answer"],
)
def test_what_stands_open_is_short_and_says_something(cells, answer):
    def found(cells):
        return [text for _, text in notebooks.lint_layers("12", cells)]

    assert len(found(cells)) == 1 and answer in found(cells)[0]
    folded = copy.deepcopy(cells)
    folded[0].metadata["tags"] = ["hide-input"]
    assert found(folded) == []
    detour = [cell_of("## A proof", ["detour"]), *cells]
    assert found(detour) == []
    assert found([*detour, cell_of("### Part of it"), *cells]) == []
    assert len(found([*detour, cell_of("## Next"), *cells])) == 1
    shorter = [cell_of(LONG.rpartition("\n")[0], count=2), cell_of("assert 1\nprint(1)", count=3)]
    assert found(shorter) == []


def test_a_marked_notebook_is_clean(tmp_path):
    notebook = clean_notebook()
    notebook.cells += [
        cell_of("import math", ["imports"], 2), *prediction(), cell_of("## A proof", ["detour"]),
        cell_of("```python\n# no heading\n```"), cell_of("## Next\n\n### Deeper"),
    ]  # fmt: skip
    notebooks.normalise(notebook)
    path = tmp_path / "12-test.ipynb"
    nbformat.write(notebook, path)
    assert notebooks.lint(path) == []


class _Anonymous(ast.NodeTransformer):
    """Rename what a function binds to v0, v1, ... and drop its docstring and annotations."""

    def __init__(self):
        self.names = {}

    def visit_FunctionDef(self, node):
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        node.returns, node.decorator_list, node.name = None, [], "f"
        self.generic_visit(node)
        return node

    def visit_ClassDef(self, node):
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        node.name = "C"
        self.generic_visit(node)
        return node

    def visit_arg(self, node):
        node.annotation = None
        node.arg = self.names.setdefault(node.arg, f"v{len(self.names)}")
        return node

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Store) or node.id in self.names:
            node.id = self.names.setdefault(node.id, f"v{len(self.names)}")
        return node


def normal_form(node):
    return ast.dump(_Anonymous().visit(copy.deepcopy(node)))  # functions inside keep their names


def python(source):
    """A cell's source without its magics."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("%"))


def definitions(tree):
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@functools.cache
def library():
    """Normal form -> name, and the set of names, of the package's functions and classes."""
    forms, names = {}, set()
    for info in pkgutil.walk_packages(linear_time.__path__, "linear_time."):
        if info.name.startswith(("linear_time.exercises.", "linear_time.pictures.")):
            continue  # not code that a chapter shows
        module = importlib.import_module(info.name)
        tree = ast.parse(inspect.getsource(module))
        for node in definitions(tree):
            if not node.name.startswith("__"):
                forms[normal_form(node)] = f"{info.name}.{node.name}"
                if node in tree.body:  # a method's name is not the library's alone
                    names.add(node.name)
    return forms, names


def retyped(cells, forms, names):
    """Definitions in ``cells`` that are the library's, or only bear a library function's name."""
    found = []
    for cell in cells:
        if {"derivation", "setup", "stub", "solution"} & set(cell.metadata.get("tags", [])):
            continue
        for node in definitions(ast.parse(python(cell.source))):
            name = node.name
            same = forms.get(normal_form(node))
            if same:
                found.append(f"{name} is {same}")
            elif name in names:
                found.append(f"{name} has the name of a library function")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_library_code_is_shown_not_retyped(path):
    assert retyped(code_cells(path), *library()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_rows_of_a_printed_table_have_the_cells_of_its_head(path):
    """A bar inside a cell, as in |x|, would end it, and what follows would be lost."""
    for cell in code_cells(path):
        for output in cell.get("outputs", []):
            lines = output.get("data", {}).get("text/markdown", "").splitlines()
            rows = [line for line in lines if line.startswith("|")]
            bars = [line.replace("\\|", "").count("|") for line in rows]
            assert len(set(bars)) <= 1, rows[bars.index(max(bars))]


def test_retyped_code_is_found():
    forms, names = library()
    source = inspect.getsource(importlib.import_module("linear_time.figures").label)
    disguised = source.replace("ax", "axes").replace("def label", "def mine")
    cells = [
        nbformat.v4.new_code_cell(text) for text in (source, disguised, "def label(): return 1")
    ]
    assert len(retyped(cells, forms, names)) == 3
    cells[0].metadata["tags"] = ["derivation"]
    assert len(retyped(cells, forms, names)) == 2


def test_a_caption_is_read_in_plain_jupyter_too():
    """Below its figure, once, with what the metadata say; inside an answer it stays in the fold."""
    figure = nbformat.v4.new_code_cell("plot()")
    figure.metadata = nbformat.from_dict({"mystnb": {"figure": {"caption": "The sum of $x$."}}})
    drawn = nbformat.v4.new_code_cell("draw()")
    drawn.metadata = nbformat.from_dict(
        {"tags": ["answer"], "mystnb": {"figure": {"caption": "**A gate.** It opens."}}}
    )
    plain = nbformat.v4.new_code_cell("x = 1")
    cells = notebooks.with_captions([figure, drawn, plain])
    assert [cell.cell_type for cell in cells] == ["code", "markdown", "code", "markdown", "code"]
    assert cells[1].source == "> **Figure.** The sum of $x$."
    assert notebooks.tags(cells[1]) == ["caption"]
    assert notebooks.tags(cells[3]) == ["answer", "caption"]
    assert "> **A gate.** It opens." in cells[3].source and "<details>" in cells[3].source
    figure.metadata["mystnb"]["figure"]["caption"] = "Another."
    again = notebooks.with_captions(cells)
    assert len(again) == 5 and again[1].source == "> **Figure.** Another."


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_the_text_sends_the_reader_to_every_figure(path):
    cells = nbformat.read(path, as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    names = [cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for cell in cells]
    assert [name for name in names if name and f"`{name}`" not in prose] == []

"""Handouts and assignments: nothing is given away, and nbgrader and otter-grader grade fairly.

The class of five hands in what both made for it. The assignments of this test hold three exercises,
and import no more than these need.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from jupyter_client.provisioning import local_provisioner
from nbformat.v4 import new_code_cell, new_markdown_cell
from traitlets.config import Config

import classroom
from book import CHAPTERS, ROOT, load
from classroom import CLASS, EXERCISES, course, handout

Preloaded = load(ROOT / "book" / "forked.py").Preloaded

# --- what is handed out ------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_students_notebook_gives_nothing_away(path):
    notebook = handout.student(path.stem[:2])
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    text = "\n".join(cell.source for cell in notebook.cells)
    assert "Rubric" not in text and "_solution" not in text
    exercises = [e for e in handout.assigned(path.stem[:2]) if e.stub]
    assert exercises
    for exercise in exercises:
        assert exercise.solution.strip() not in text
        answers = [
            c for c in code if c.metadata.get("linear_time") == {"exercise": exercise.made.name}
        ]
        stub, check = answers
        assert "check(" not in stub.source and "NotImplementedError" in stub.source
        assert check.source.startswith("check(") and check.metadata.editable is False
        assert stub.metadata.deletable is check.metadata.deletable is False
    assert notebook.cells[1].source.startswith("# Set-up") or "Set-up" in text  # Colab's first cell


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_assignments_hold_every_exercise(path):
    number = path.stem[:2]
    worth = {name: course.points(made) for name, made in course.chapter(number).exercises.items()}
    made = handout.nbgrader_notebook(number)
    nbformat.validate(made)
    graded = {
        cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points
        for cell in made.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }
    assert graded == worth
    for exercise in handout.assigned(number):
        assert exercise.rubric if exercise.made.kind == "written" else exercise.stub
    otter = "\n".join(cell.source for cell in handout.otter_notebook(number).cells)
    assert otter.count("# BEGIN QUESTION") == len(worth)


def test_a_hidden_seed_is_another_each_time():
    one, other = (handout.nbgrader_notebook("12", EXERCISES) for _ in range(2))
    assert [c.source for c in one.cells] != [c.source for c in other.cells]


def test_the_folder_for_students(tmp_path):
    handout.hand_out(tmp_path, ["12", "16"])
    names = sorted(path.name for path in tmp_path.iterdir())
    (wheel,) = (name for name in names if name.endswith(".whl"))
    assert names == ["12-discretization.ipynb", "16-selective.ipynb", "README.md", wheel]
    text = (tmp_path / "README.md").read_text(encoding="utf8")
    assert wheel in text and "| 12-theta · " in text and "{" not in text


# --- a small chapter, cell by cell ---------------------------------------------------------------

STUB = "def f(x):\n    raise NotImplementedError\n\n\n"
SOLUTION = "def f_solution(x):\n    return x\n\n\n"


@pytest.fixture
def chapter(monkeypatch):
    """A chapter of three exercises: one of code, one written, one that trains."""

    def md(source, *tags):
        return new_markdown_cell(source, metadata={"tags": list(tags)} if tags else {})

    def code(source, *tags):
        made = new_code_cell(source, metadata={"tags": list(tags)} if tags else {})
        made.outputs = [nbformat.v4.new_output("stream", text="printed")]
        made.execution_count = 7
        return made

    def statement(name):
        return f":::{{exercise}} {name}\n:label: 98-{name}\n\nDo it.\n:::"

    cells = [
        md("# 98 · Small"), code("set up", "remove-cell", "setup"), code("import a", "imports"),
        code("shown()"), md(statement("a"), "x"),
        code(f"{STUB}check('98-a', f)\nassert check('98-a', f)", "stub"),
        code(f"{SOLUTION}check('98-a', f_solution)", "hide-cell", "solution"),
        md(statement("w")), md("One point.", "rubric"), md("words"), md("Two points.", "rubric"),
        md(statement("t")), md("A point of t.", "rubric"),
        code(f"{STUB}check('98-t', f)", "stub"),
        code("g_solution = 1\ncheck('98-t', g_solution)", "solution"),
    ]  # fmt: skip
    book = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "k"}})
    kinds = {"a": "", "w": "written", "t": "train"}
    made = {
        f"98-{name}": course.Exercise(f"98-{name}", f"Title {name}", "do it", 2, 15, kind)
        for name, kind in kinds.items()
    }
    known = SimpleNamespace(
        chapter=lambda number: SimpleNamespace(number="98", title="Small", exercises=made),
        stems=lambda: {"98": "98-small"}, points=course.points, Exercise=course.Exercise,
    )  # fmt: skip
    monkeypatch.setattr(handout, "course", known)
    monkeypatch.setattr(handout, "notebook_of", lambda number: nbformat.from_dict(dict(book)))
    monkeypatch.setattr(handout.secrets, "randbits", lambda bits: 2**bits)
    return book


def test_exercises_are_taken_with_their_own_cells(chapter):
    a, w, t = handout.assigned("98")
    assert [one.made.name for one in (a, w, t)] == ["98-a", "98-w", "98-t"]
    assert a.stub == STUB.rstrip() and a.check == "check('98-a', f)\nassert check('98-a', f)"
    assert a.solution.startswith("def f_solution") and a.rubric == ""
    assert (w.stub, w.check, w.solution) == ("", "", "") and w.rubric == "One point.\nTwo points."
    assert t.rubric == "A point of t." and t.statement == chapter.cells[11].source
    assert a.answers == {"98-a": "f"} and w.answers == {}
    assert handout.solved(a) == f"{SOLUTION}f = f_solution"
    assert handout.solved(t) == "g_solution = 1\n\n\nf = g_solution"
    assert [handout.allowed(one) for one in (a, t)] == [60, 180]
    assert [one.made.name for one in handout.chosen("98", ["98-t", "98-w"])] == ["98-w", "98-t"]
    assert len(list(handout.chosen("98", ()))) == 3
    assert handout.notebook_of.__name__ == "<lambda>"


def test_the_student_s_copy_of_a_chapter(chapter):
    cells = handout.student("98").cells
    kept = [
        "# 98 · Small", "set up", "import a", "shown()", chapter.cells[4].source, STUB.rstrip(),
        "check('98-a', f)\nassert check('98-a', f)", chapter.cells[7].source, "words",
        chapter.cells[11].source, STUB.rstrip(), "check('98-t', f)",
    ]  # fmt: skip
    assert [cell.source for cell in cells] == kept
    assert [c.id for c in (*cells[5:7], *cells[-2:])] == [
        "98-a-answer", "98-a-check", "98-t-answer", "98-t-check"
    ]  # fmt: skip
    marks = {"linear_time": {"exercise": "98-a"}, "deletable": False}
    assert cells[5].metadata == {**marks, "tags": ["stub"]}
    assert cells[6].metadata == {**marks, "editable": False, "tags": ["check"]}
    assert not any(c.outputs or c.execution_count for c in cells if c.cell_type == "code")
    assert all(cell.outputs for cell in chapter.cells if cell.cell_type == "code")


HEAD = "# 98 · Small: exercises\n\nThe chapter's own notebook is for reading."
HIDDEN = (
    '{fresh}assert _check("98-{name}", f, seed=281474976710656, reveal=False, quiet=True, '
    "seconds={seconds})"
)


def hidden(name, seconds):
    return HIDDEN.format(fresh=handout.FRESH, name=name, seconds=seconds)


def test_the_source_for_nbgrader(chapter):
    made = handout.nbgrader_notebook("98")
    assert made.metadata == {"language_info": {"name": "k"}}
    assert [cell.id for cell in made.cells] == [f"cell-{n:03d}" for n in range(11)]
    found = [(c.cell_type, c.source, c.metadata.get("nbgrader")) for c in made.cells]

    def marks(grade_id, *on, **more):
        flags = {name: name in on for name in ("grade", "solution", "locked", "task")}
        return {"schema_version": 3, "grade_id": grade_id, **flags, **more}

    def tests(name, seconds):
        shown = f'assert check("98-{name}", f, seconds={seconds})'
        secret = hidden(name, seconds)
        return f"{shown}\n### BEGIN HIDDEN TESTS\n{secret}\n### END HIDDEN TESTS"

    def body(solution):
        stub = STUB.rstrip()
        return f"{stub}\n\n\n### BEGIN SOLUTION\n{solution}\n### END SOLUTION"

    text, given = [chapter.cells[n].source for n in (4, 7, 11)], "### BEGIN SOLUTION\n"
    assert found == [
        ("markdown", HEAD, None),
        ("code", "set up", marks("head-6", "locked")),
        ("code", "import a", marks("head-8", "locked")),
        ("markdown", text[0], marks("98-a-text", "locked")),
        ("code", body(f"{SOLUTION}f = f_solution"), marks("98-a-answer", "solution")),
        ("code", tests("a", 60), marks("98-a", "grade", "locked", points=4)),
        ("markdown", text[1], marks("98-w-text", "locked")),
        ("markdown", f"{given}One point.\nTwo points.\n### END SOLUTION",
         marks("98-w", "grade", "solution", points=4)),
        ("markdown", text[2], marks("98-t-text", "locked")),
        ("code", body("g_solution = 1\n\n\nf = g_solution"), marks("98-t-answer", "solution")),
        ("code", tests("t", 180), marks("98-t", "grade", "locked", points=4)),
    ]  # fmt: skip
    assert [cell.metadata["tags"] for cell in made.cells[1:3]] == [
        ["remove-cell", "setup"], ["imports"]
    ]  # fmt: skip
    only = handout.nbgrader_notebook("98", ["98-w"])
    assert [c.metadata.get("nbgrader", {}).get("grade_id") for c in only.cells] == [
        None, "head-6", "head-8", "98-w-text", "98-w"
    ]  # fmt: skip


def test_the_master_for_otter(chapter):
    made = handout.otter_notebook("98", ["98-w", "98-t"])
    settings = "check_all_cell: false\nexport_cell: false\nname: linear-time-98\n"

    def test(config, source):
        return f'""" # BEGIN TEST CONFIG\n{config}""" # END TEST CONFIG\n{source}'

    shown = 'assert check("98-t", f, quiet=True, seconds=180)'
    body = "g_solution = 1\n\n\nf = g_solution"
    assert [(c.cell_type, c.source) for c in made.cells] == [
        ("raw", f"# ASSIGNMENT CONFIG\n{settings}"), ("markdown", HEAD),
        ("code", "set up"), ("code", "import a"),
        ("raw", "# BEGIN QUESTION\nmanual: true\nname: q98_w\npoints: 4\n"),
        ("markdown", chapter.cells[7].source), ("raw", "# BEGIN SOLUTION"),
        ("markdown", "**SOLUTION**\n\nOne point.\nTwo points."), ("raw", "# END SOLUTION"),
        ("raw", "# END QUESTION"),
        ("raw", "# BEGIN QUESTION\nname: q98_t\n"), ("markdown", chapter.cells[11].source),
        ("raw", "# BEGIN SOLUTION"),
        ("code", f"{STUB.rstrip()}\n\n\n# BEGIN SOLUTION NO PROMPT\n{body}\n# END SOLUTION"),
        ("raw", "# END SOLUTION"), ("code", 'check("98-t", f, seconds=180)'),
        ("raw", "# BEGIN TESTS"), ("code", test("points: 0\n", shown)),
        ("code", test("hidden: true\npoints: 4\n", hidden("t", 180))), ("raw", "# END TESTS"),
        ("raw", "# END QUESTION"),
    ]  # fmt: skip
    assert [cell.id for cell in made.cells] == [f"cell-{n:03d}" for n in range(21)]
    assert handout.otter_notebook("98").cells[-1].source == "# END QUESTION"


def test_the_students_folder_and_its_table(chapter, tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "handout.md").write_text(
        "{title}|{chapters}|{wheel}\n{rows}\n", encoding="utf8"
    )
    monkeypatch.setattr(handout, "ROOT", tmp_path)
    monkeypatch.setattr(handout, "wheel", lambda folder: folder / "made.whl")
    handout.hand_out(tmp_path / "deep" / "out", ["98"])
    handout.hand_out(tmp_path / "deep" / "out", ["98", "98"])
    assert {p.name for p in (tmp_path / "deep" / "out").iterdir()} == {
        "98-small.ipynb",
        "README.md",
    }
    text = (tmp_path / "deep" / "out" / "README.md").read_text(encoding="utf8")
    row = "| 98-{0} · Title {0} | {1} | ●● | 15 | 4 |"
    rows = [row.format(*pair) for pair in (("a", "code"), ("w", "written"), ("t", "train"))]
    head = "Linear Time: exercises|chapter 98, Small and chapter 98, Small|made.whl"
    assert text.splitlines() == [head, *rows, *rows]


def test_the_wheel_is_made_offline_and_outside_the_checkout(tmp_path, monkeypatch):
    asked = []

    def run(command, check):
        scratch = Path(command[-1])
        there = {p.relative_to(scratch).as_posix() for p in scratch.rglob("*") if p.is_file()}
        asked.append((command, check, there))
        (scratch / "linear_time-1-py3-none-any.whl").write_bytes(b"wheel")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(handout.subprocess, "run", run)
    made = handout.wheel(tmp_path)
    assert made == tmp_path / "linear_time-1-py3-none-any.whl" and made.read_bytes() == b"wheel"
    ((command, check, there),) = asked
    assert check is True and command[:3] == [sys.executable, "-m", "pip"]
    scratch = command[-1]
    assert command[3:] == [
        "--disable-pip-version-check", "wheel", "-q", "--no-deps", "--no-index",
        "--no-build-isolation", "--wheel-dir", scratch, scratch,
    ]  # fmt: skip
    assert {"pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"} < there
    assert "src/linear_time/scan.py" in there
    assert not [name for name in there if "__pycache__" in name or ".egg-info" in name]
    assert not Path(scratch).exists()


# --- nbgrader and otter ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["student", "nbgrader", "otter"])
def test_the_command_makes_what_it_is_asked_for(kind, tmp_path, monkeypatch, capsys):
    made, empty = [], nbformat.v4.new_notebook()
    for name in ("nbgrader_notebook", "otter_notebook"):
        monkeypatch.setattr(handout, name, lambda n, name=name: made.append((name, n)) or empty)
    monkeypatch.setattr(handout, "hand_out", lambda *given: made.append(given))
    monkeypatch.setattr("sys.argv", ["handout.py", kind, str(tmp_path), "12", "16"])
    assert handout.main() == 0
    said = f"{kind}: 12, 16 in {tmp_path}\n"
    assert capsys.readouterr().out == said
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    books = ["12/12-discretization.ipynb", "16/16-selective.ipynb"]
    if kind == "student":
        assert made == [(tmp_path, ["12", "16"])] and not files
    elif kind == "nbgrader":
        assert made == [("nbgrader_notebook", "12"), ("nbgrader_notebook", "16")]
        assert files == ["nbgrader_config.py", *(f"source/{book}" for book in books)]
    else:
        assert made == [("otter_notebook", "12"), ("otter_notebook", "16")] and files == books


@pytest.fixture(scope="module")
def kernels():
    """Kernels behind their imports, which take longer than what the class has written."""
    modules = ("ipykernel.kernelapp", "linear_time.exercises.discretization")
    modules += ("pandas", "ipylab", "nbconvert")  # of otter: itself, it asks where it is imported
    environment = {**os.environ, "JPY_PARENT_PID": str(os.getpid())}  # they end where it ends
    with Preloaded(*modules, env=environment) as python, pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_provisioner, "launch_kernel", python.kernel)
        yield


@pytest.fixture
def small(kernels, monkeypatch):
    """Assignments that are light to execute, for answers that take no second or are endless."""

    def head(number):
        return [new_markdown_cell("# Exercises"), new_code_cell(classroom.LIGHT)]

    monkeypatch.setattr(handout, "head", head)
    monkeypatch.setattr(handout, "SECONDS", 1)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", programs)  # nbgrader starts alembic
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.filterwarnings("ignore")
def test_nbgrader_gives_the_class_what_is_fair(small, tmp_path):
    from nbgrader.apps import NbGraderAPI

    source = tmp_path / "source" / "12"
    source.mkdir(parents=True)
    nbformat.write(handout.nbgrader_notebook("12", EXERCISES), source / "12.ipynb")
    config = Config()
    exec(handout.NBGRADER, {"get_config": lambda: config})
    config.CourseDirectory.root = str(tmp_path)
    api = NbGraderAPI(config=config)
    assert api.generate_assignment("12")["success"]
    released = nbformat.read(tmp_path / "release" / "12" / "12.ipynb", 4)
    text = "\n".join(cell.source for cell in released.cells)
    assert "seed=" not in text and "_solution" not in text and "NotImplementedError" in text
    for student in CLASS:
        folder = tmp_path / "submitted" / student / "12"
        folder.mkdir(parents=True)
        nbformat.write(classroom.filled(released, student), folder / "12.ipynb")
        graded = api.autograde("12", student)
        assert graded["success"], graded
        with api.gradebook as book:
            handed_in = book.find_submission("12", student)
            got = {g.name: g.score for nb in handed_in.notebooks for g in nb.grades}
            assert handed_in.max_score == sum(classroom.points().values())
        assert got == classroom.fair(student), student


@pytest.mark.filterwarnings("ignore")
def test_otter_gives_the_class_what_is_fair(small, tmp_path, capfd):
    from otter.assign import main as assign
    from otter.run import main as run

    nbformat.write(handout.otter_notebook("12", EXERCISES), tmp_path / "12.ipynb")
    assign(str(tmp_path / "12.ipynb"), str(tmp_path / "made"), no_run_tests=True, no_pdfs=True)
    released = nbformat.read(tmp_path / "made" / "student" / "12.ipynb", 4)
    text = str(released)
    assert "seed=" not in text and "_solution" not in text and "NotImplementedError" in text
    (archive,) = (tmp_path / "made" / "autograder").glob("*.zip")
    for student in CLASS:
        path = tmp_path / f"{student}.ipynb"
        nbformat.write(classroom.filled(released, student), path)
        results = run(str(path), autograder=str(archive), output_dir=None, no_logo=True).results
        got = {name.removeprefix("q").replace("_", "-"): r.score for name, r in results.items()}
        assert got == classroom.fair(student), student

"""Handouts and assignments: nothing is given away, and nbgrader and otter-grader grade fairly.

The class of five hands in what both made for it. The assignments of this test hold three exercises,
and import no more than these need.
"""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell
from traitlets.config import Config

import classroom
from book import CHAPTERS
from classroom import CLASS, EXERCISES, course, handout

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


@pytest.fixture
def small(monkeypatch):
    """Assignments that are light to execute, for answers that take seconds."""

    def head(number):
        return [new_markdown_cell("# Exercises"), new_code_cell(classroom.LIGHT)]

    monkeypatch.setattr(handout, "head", head)
    monkeypatch.setattr(handout, "SECONDS", 3)
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

"""Hand out chapters: python book/handout.py student|nbgrader|otter FOLDER 12 16

    student    the chapters without solutions and outputs, the package's wheel, a README
    nbgrader   a course directory: source/12/… with its metadata, and nbgrader_config.py
    otter      12/12-….ipynb, the master notebook for `otter assign`

All are made from the chapters' own notebooks. In each the stub and the check of an exercise stand
in cells of their own. The two assignments hold the imports and the exercises alone, so that grading
one does not execute a chapter; their graded cells assert, and have hidden tests with seeds that are
drawn when the assignment is made.
"""

from __future__ import annotations

import argparse
import ast
import copy
import itertools
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

import course
from answers import checked
from grade import named_answers

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60  # that an answer may take
#: Where a submission may have replaced the check, it is imported anew before it decides.
FRESH = """\
import sys
for _name in [name for name in sys.modules if name.startswith("linear_time.exercises")]:
    del sys.modules[_name]
from linear_time.exercises import check as _check
"""


class Assigned(NamedTuple):
    """An exercise with its cells; one that is written has neither stub nor check nor solution."""

    made: course.Exercise
    statement: str
    stub: str
    check: str
    solution: str
    rubric: str

    @property
    def answers(self) -> dict[str, str]:
        return named_answers(self.check)


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def notebook_of(number: str) -> NotebookNode:
    return nbformat.read(ROOT / "chapters" / f"{course.stems()[number]}.ipynb", 4)


def split(source: str) -> tuple[str, str]:
    """A stub's cell as two: what the student edits, and the check."""
    lines = source.split("\n")
    first = next(node for node in ast.parse(source).body if checked(node))
    at = first.lineno - 1
    return "\n".join(lines[:at]).rstrip(), "\n".join(lines[at:]).strip()


def assigned(number: str) -> Iterator[Assigned]:
    """The exercises of a chapter, in its order."""
    cells = notebook_of(number).cells
    for made in course.chapter(number).exercises.values():
        (at,) = (n for n, c in enumerate(cells) if f"\n:label: {made.name}\n" in c.source)
        own = itertools.takewhile(lambda c: "\n:label: " not in c.source, cells[at + 1 :])
        rubric = "\n".join(c.source for c in own if "rubric" in tags(c))
        found = {"stub": "", "solution": ""}
        for cell in cells:
            for tag in found:
                if tag in tags(cell) and made.name in named_answers(cell.source):
                    found[tag] = cell.source
        stub, check = split(found["stub"]) if found["stub"] else ("", "")
        yield Assigned(made, cells[at].source, stub, check, found["solution"], rubric)


def solved(exercise: Assigned) -> str:
    """The solution under the stub's name."""
    (expression,) = exercise.answers.values()
    body = [node for node in ast.parse(exercise.solution).body if checked(node)]
    lines = exercise.solution.split("\n")
    kept = "\n".join(lines[: body[0].lineno - 1]).rstrip()
    return f"{kept}\n\n\n{expression} = {named_answers(exercise.solution)[exercise.made.name]}"


# --- for students ------------------------------------------------------------------------------


def student(number: str) -> NotebookNode:
    """A chapter without solutions and outputs."""
    notebook = notebook_of(number)
    cells = []
    for cell in notebook.cells:
        if {"solution", "rubric"} & set(tags(cell)):
            continue  # a rubric says what the answer is
        cell = copy.deepcopy(cell)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "stub" not in tags(cell):
            cells.append(cell)
            continue
        stub, check = split(cell.source)
        cells += [answer_cell(stub, check), check_cell(check)]
    notebook.cells = cells
    return notebook


def answer_cell(stub: str, check: str) -> NotebookNode:
    name = next(iter(named_answers(check)))
    metadata = {"deletable": False, "linear_time": {"exercise": name}, "tags": ["stub"]}
    return new_code_cell(stub, id=f"{name}-answer", metadata=metadata)


def check_cell(check: str) -> NotebookNode:
    name = next(iter(named_answers(check)))
    metadata = {"deletable": False, "editable": False, "linear_time": {"exercise": name}}
    return new_code_cell(check, id=f"{name}-check", metadata={**metadata, "tags": ["check"]})


def hand_out(folder: Path, numbers: Sequence[str]) -> None:
    """Write the students' folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        nbformat.write(student(number), folder / f"{course.stems()[number]}.ipynb")
    made = wheel(folder)
    chapters = [course.chapter(number) for number in numbers]
    rows = [
        f"| {e.name} · {e.title} | {e.kind or 'code'} | {'●' * e.difficulty} "
        f"| {e.minutes} | {course.points(e)} |"
        for chapter in chapters
        for e in chapter.exercises.values()
    ]
    titles = " and ".join(f"chapter {c.number}, {c.title}" for c in chapters)
    template = (ROOT / "book" / "handout.md").read_text(encoding="utf8")
    text = template.format(
        title="Linear Time: exercises", chapters=titles, wheel=made.name, rows="\n".join(rows)
    )
    (folder / "README.md").write_text(text, encoding="utf8")


def wheel(folder: Path) -> Path:
    """The package's wheel, made outside the checkout."""
    with tempfile.TemporaryDirectory() as scratch:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "src", Path(scratch, "src"), ignore=ignored)
        for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
            shutil.copy(ROOT / name, scratch)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
        offline = ["--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, *offline, "--wheel-dir", scratch, scratch], check=True)
        (made,) = Path(scratch).glob("*.whl")
        return Path(shutil.copy(made, folder))


# --- assignments -------------------------------------------------------------------------------


def head(number: str) -> list[NotebookNode]:
    """Title, set-up and imports."""
    chapter = course.chapter(number)
    words = f"# {number} · {chapter.title}: exercises\n\nThe chapter's own notebook is for reading."
    cells = [new_markdown_cell(words)]
    for cell in notebook_of(number).cells:
        if {"setup", "imports"} & set(tags(cell)):
            made = new_code_cell(cell.source, metadata={"tags": [*tags(cell)]})
            cells.append(made)
    return cells


def allowed(exercise: Assigned) -> int:
    """Seconds of a check: one that trains does so twice, for a minute each."""
    return SECONDS * (3 if exercise.made.kind == "train" else 1)


def asserted(exercise: Assigned) -> str:
    """The visible test."""
    ((name, answer),) = exercise.answers.items()
    return f'assert check("{name}", {answer}, seconds={allowed(exercise)})'


def hidden(exercise: Assigned) -> str:
    """The hidden test, with a seed that nobody has seen."""
    ((name, answer),) = exercise.answers.items()
    settings = f"seed={secrets.randbits(48)}, reveal=False, quiet=True, seconds={allowed(exercise)}"
    return f'{FRESH}assert _check("{name}", {answer}, {settings})'


def finished(cells: list[NotebookNode], number: str) -> NotebookNode:
    notebook = new_notebook(cells=cells, metadata=dict(notebook_of(number).metadata))
    for n, cell in enumerate(notebook.cells):
        cell.id = f"cell-{n:03d}"
    return notebook


def nbgrader_notebook(number: str, only: Sequence[str] = ()) -> NotebookNode:
    """The source of an nbgrader assignment: solutions between marks, graded cells that assert."""

    def marked(cell: NotebookNode, grade_id: str, **settings: bool | float) -> NotebookNode:
        given = {"grade": False, "solution": False, "locked": False, "task": False, **settings}
        cell.metadata["nbgrader"] = {"schema_version": 3, "grade_id": grade_id, **given}
        return cell

    cells = head(number)
    for cell in cells[1:]:
        marked(cell, f"head-{len(cell.source)}", locked=True)
    for exercise in chosen(number, only):
        name, worth = exercise.made.name, course.points(exercise.made)
        cells.append(marked(new_markdown_cell(exercise.statement), f"{name}-text", locked=True))
        if not exercise.stub:
            words = f"### BEGIN SOLUTION\n{exercise.rubric}\n### END SOLUTION"
            answer = new_markdown_cell(words)
            cells.append(marked(answer, name, grade=True, solution=True, points=worth))
            continue
        body = f"{exercise.stub}\n\n\n### BEGIN SOLUTION\n{solved(exercise)}\n### END SOLUTION"
        secret = f"### BEGIN HIDDEN TESTS\n{hidden(exercise)}\n### END HIDDEN TESTS"
        test = f"{asserted(exercise)}\n{secret}"
        cells += [
            marked(new_code_cell(body), f"{name}-answer", solution=True),
            marked(new_code_cell(test), name, grade=True, locked=True, points=worth),
        ]
    return finished(cells, number)


def otter_notebook(number: str, only: Sequence[str] = ()) -> NotebookNode:
    """The master notebook for `otter assign`."""

    def raw(*lines: str) -> NotebookNode:
        return new_raw_cell("\n".join(lines))

    settings = {"name": f"linear-time-{number}", "export_cell": False, "check_all_cell": False}
    cells = [raw("# ASSIGNMENT CONFIG", yaml.safe_dump(settings)), *head(number)]
    for exercise in chosen(number, only):
        name, worth = exercise.made.name, course.points(exercise.made)
        question: dict = {"name": f"q{name.replace('-', '_')}"}
        if not exercise.stub:
            question |= {"manual": True, "points": worth}
        cells += [
            raw("# BEGIN QUESTION", yaml.safe_dump(question)),
            new_markdown_cell(exercise.statement),
            raw("# BEGIN SOLUTION"),
        ]
        if not exercise.stub:
            cells += [
                new_markdown_cell(f"**SOLUTION**\n\n{exercise.rubric}"),
                raw("# END SOLUTION"),
            ]
        else:
            body = f"# BEGIN SOLUTION NO PROMPT\n{solved(exercise)}\n# END SOLUTION"
            ((_, answer),) = exercise.answers.items()
            practice = f'check("{name}", {answer}, seconds={allowed(exercise)})'
            cells += [
                new_code_cell(f"{exercise.stub}\n\n\n{body}"),
                raw("# END SOLUTION"),
                new_code_cell(practice),
                raw("# BEGIN TESTS"),
                new_code_cell(otter_test(quietly(asserted(exercise)), points=0)),
                new_code_cell(otter_test(hidden(exercise), points=worth, hidden=True)),
                raw("# END TESTS"),
            ]
        cells.append(raw("# END QUESTION"))
    return finished(cells, number)


def otter_test(source: str, **settings: bool | int) -> str:
    return f'""" # BEGIN TEST CONFIG\n{yaml.safe_dump(settings)}""" # END TEST CONFIG\n{source}'


def quietly(test: str) -> str:
    """A test whose output is not compared."""
    return test.replace(", seconds=", ", quiet=True, seconds=")


def chosen(number: str, only: Sequence[str]) -> Iterator[Assigned]:
    return (e for e in assigned(number) if not only or e.made.name in only)


NBGRADER = """\
c = get_config()
c.CourseDirectory.course_id = "linear-time"
c.ClearSolutions.code_stub = {"python": ""}  # the stub stands above the solution
c.Execute.timeout = 210
"""


def main() -> int:
    """Make what is handed out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=("student", "nbgrader", "otter"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("chapters", nargs="+", choices=sorted(course.stems()))
    options = parser.parse_args()
    if options.kind == "student":
        hand_out(options.folder, options.chapters)
    for number in options.chapters if options.kind != "student" else ():
        nbgrader = options.kind == "nbgrader"
        made = (nbgrader_notebook if nbgrader else otter_notebook)(number)
        target = options.folder / ("source" if nbgrader else "") / number
        target.mkdir(parents=True, exist_ok=True)
        nbformat.write(made, target / f"{course.stems()[number]}.ipynb")
    if options.kind == "nbgrader":
        (options.folder / "nbgrader_config.py").write_text(NBGRADER, encoding="utf8")
    print(f"{options.kind}: {', '.join(options.chapters)} in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

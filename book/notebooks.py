"""Execute, normalise and lint the committed notebooks.

    python book/notebooks.py run [NOTEBOOK ...]    execute in place, then normalise
    python book/notebooks.py lint [NOTEBOOK ...]   refuse what would not hold on a clone
    python book/notebooks.py renew [NOTEBOOK ...]  write out what tags mean, and renew what show()
                                                   and linear_time.pictures display: execute nothing

A committed notebook is executed and carries its text outputs, which nbval compares. PNG images are
stripped and their ``<Figure ...>`` text kept; execution counts run from 1; no metadata tells of a
machine.
"""

import argparse
import ast
import copy
import importlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ("image/png", "image/jpeg")
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def pages() -> list[Path]:
    """The notebooks of the book: the chapters in order, and the pages that have no number."""
    return [
        path for folder in ("chapters", "book") for path in sorted((ROOT / folder).glob("*.ipynb"))
    ]


def setup_source() -> str:
    """The first code cell of every chapter; the repository is the one that _config.yml names."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))["repository"]["url"]
    return (
        "# Set-up: installs the book's package where there is none\n"
        "try:\n"
        "    import linear_time\n"
        "except ModuleNotFoundError:  # on Colab\n"
        f"    %pip install -q git+{url}\n"
        "    import linear_time"
    )


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def normalise(notebook) -> None:
    """Make a notebook the same whoever executed it, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    write_out(notebook)
    count = 0
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "scrolled", "trusted", "lines_to_next_cell"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = merge_streams(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            for image in IMAGES:
                output.get("data", {}).pop(image, None)
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})


#: What a tag makes of a code cell: further tags, what its fold says on the page, what JupyterLab
#: hides. A later one prevails.
FOLDS = {
    "hide-input": ((), None, ["source_hidden"]),
    "remove-input": ((), None, ["source_hidden"]),
    "setup": (("remove-cell",), None, ["source_hidden"]),
    "imports": (
        ("hide-input",), ("What this page imports", "Fold the imports"), ["source_hidden"]
    ),
    "solution": (("hide-cell",), ("Show the solution", "Hide it"), ["source_hidden"]),
    "answer": ((), None, ["source_hidden", "outputs_hidden"]),
}  # fmt: skip
TITLE = "# @title What this page imports"  # Colab shows it in place of the cell
REVEAL = "<details><summary>What was measured</summary>"


def mark_up(cell) -> None:
    """Write into a cell what its tags mean to a page, to JupyterLab and to Colab, in place."""
    given = tags(cell)
    for key in ("jupyter", "cellView", "jp-MarkdownHeadingCollapsed"):
        cell.metadata.pop(key, None)
    if cell.cell_type != "code":
        cell.source = plain_exercise(cell.source)
        if "detour" in given:
            cell.metadata["jp-MarkdownHeadingCollapsed"] = True
        if "answer" in given and not cell.source.startswith("<details>"):
            cell.source = f"{REVEAL}\n\n{cell.source.strip()}\n\n</details>"
        return
    for tag, (further, prompts, hidden) in FOLDS.items():
        if tag not in given:
            continue
        cell.metadata["tags"] = sorted({*tags(cell), *further})
        cell.metadata["jupyter"] = dict.fromkeys(hidden, True)
        if prompts:
            show, hide = prompts
            cell.metadata["mystnb"] = {"code_prompt_show": show, "code_prompt_hide": hide}
    if "setup" in given:
        cell.source = setup_source()
    if "imports" in given:
        cell.metadata["cellView"] = "form"
        if not cell.source.startswith(TITLE):
            cell.source = f"{TITLE}\n{cell.source}"


def write_out(notebook) -> None:
    """Captions below their figures, cells numbered, and what tags mean, in place."""
    notebook.cells = with_captions(notebook.cells)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:03d}"
        mark_up(cell)


def with_captions(cells: list) -> list:
    """The cells, and below each figure one with its caption: plain Jupyter knows no metadata.

    The page leaves these cells out, since there the caption is the figure's.
    """
    found = []
    for cell in cells:
        if "caption" in tags(cell):
            continue
        found.append(cell)
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption")
        if cell.cell_type == "code" and caption:
            title = "" if caption.startswith("**") else "**Figure.** "
            below = nbformat.v4.new_markdown_cell(f"> {title}{caption}")
            # inside an answer it keeps the run together, and is folded with it
            below.metadata["tags"] = (
                ["answer", "caption"] if "answer" in tags(cell) else ["caption"]
            )
            mark_up(below)
            found.append(below)
    return found


def plain_exercise(source: str) -> str:
    """Fence an exercise with colons: where MyST is not known, its text still shows as Markdown."""
    lines = source.strip().split("\n")
    if lines[0].startswith("```{exercise}") and lines[-1] == "```":
        lines[0], lines[-1] = lines[0].replace("```", ":::"), ":::"
        return "\n".join(lines)
    return source


def merge_streams(outputs):
    """Join neighbouring pieces of one stream: where the kernel breaks them is chance."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def run(path: Path) -> str:
    """Execute and normalise one notebook in place; an empty string, or what went wrong."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and "setup" in tags(cell):
            cell.source = setup_source()
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return f"{path.name}: {error}"
    normalise(notebook)
    nbformat.write(notebook, path)
    return ""


def library_object(name: str) -> Any:
    """The function, class or method of a dotted name."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[size:], module)
    raise ModuleNotFoundError(f"{name}: no such module")


def displayed(notebook, *, pictures: bool = True) -> Iterator[tuple[Any, Any]]:
    """The outputs that follow from the package alone, each with what is displayed there.

    They are those of cells that end with ``show(…)`` of what the notebook imports, and of cells
    that are one call of ``linear_time.pictures``, which is left out where none is asked for.
    """
    names: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code" or "setup" in tags(cell):
            continue
        try:
            body = ast.parse(cell.source).body
        except SyntaxError:  # a magic
            continue
        for node in body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("linear_time"):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    names[alias.asname or alias.name] = library_object(name)
        match body:
            case [*before, ast.Expr(value=ast.Call(func=ast.Name(id=name)) as call)]:
                room = getattr(names.get(name), "__module__", "")
                pictured = room.startswith("linear_time.pictures.") and not before
                if (pictured and pictures) or (name == "show" and room == "linear_time.show"):
                    thing = eval(ast.unparse(call), names)
                    for output in cell.outputs:
                        if output.output_type == "execute_result":
                            yield output, thing


def bundle(thing: Any) -> dict[str, str]:
    """What a notebook keeps of something displayed."""
    if hasattr(thing, "_repr_mimebundle_"):
        return thing._repr_mimebundle_()
    return {"text/html": thing._repr_html_(), "text/plain": repr(thing)}


def renew(notebook) -> int:
    """Write out tags, and put in place what the package now shows and draws.

    Returns:
        How many cells and outputs changed.
    """
    before = copy.deepcopy(notebook.cells)
    write_out(notebook)
    for output, thing in displayed(notebook):
        output.data = nbformat.from_dict(bundle(thing))
    pairs = itertools.zip_longest(before, notebook.cells)
    return sum(old != new for old, new in pairs)


LONGEST = 22  # lines of a cell that stands open
HEADING = re.compile(r"^(#{1,6}) ", re.MULTILINE)
BOX = re.compile(r"\w+ = None  # \S.*")  # a prediction: the name, and what it is in which unit
MEASURED = re.compile(r"^  measured ", re.MULTILINE)  # a line that `predict` prints


def headings(cell) -> list[tuple[int, int]]:
    """(place in the source, level) of a Markdown cell's headings; code in a fence has none."""
    if cell.cell_type != "markdown":
        return []
    prose = re.sub(r"^```.*?^```", lambda m: " " * len(m[0]), cell.source, flags=re.M | re.S)
    return [(match.start(), len(match[1])) for match in HEADING.finditer(prose)]


def lint_layers(number: str, cells) -> Iterator[tuple[int, str]]:
    """(cell, what is wrong) with the marks of the two layers: detours, predictions, answers."""
    detour = 0  # the level of the heading that opened it
    for i, cell in enumerate(cells):
        given = set(tags(cell))
        before = set(tags(cells[i - 1])) if i else set()
        for place, level in headings(cell):
            if level <= detour and place > 0:
                yield i, "a heading that ends a detour must begin its cell"
            if level <= detour:
                detour = 0
        if "detour" in given:
            level = next((level for place, level in headings(cell) if place == 0), 0)
            if level < 2:
                yield i, "a detour must begin with a heading, of level 2 or deeper"
            detour = detour or level
        if "predict" in given:
            lines = cell.source.strip().split("\n")
            if cell.cell_type != "code" or not all(map(BOX.fullmatch, lines)):
                yield i, "a prediction is written 'name = None  # what, unit', one a line"
            run = list(itertools.takewhile(lambda c: "answer" in tags(c), cells[i + 1 :]))
            outputs = [output for c in run for output in c.get("outputs", [])]
            measured = sum(len(MEASURED.findall(output.get("text", ""))) for output in outputs)
            if not run:
                yield i, "no cell tagged 'answer' follows the prediction"
            elif measured != len(lines):
                yield i, f"{len(lines)} predictions, and their answer measures {measured}"
        if "answer" in given:
            if not before & {"predict", "answer"}:
                yield i, "an answer must follow a prediction or another cell of the answer"
            if headings(cell):
                yield i, "a heading inside an answer"
        folded = given & {"hide-cell", "remove-cell", "predict", *FOLDS}
        if cell.cell_type != "code" or detour or folded:
            continue
        body = statements(cell.source)
        if len(cell.source.splitlines()) > LONGEST:
            yield i, f"an open cell of more than {LONGEST} lines"
        if body and all(isinstance(node, ast.Assert) for node in body):
            yield i, "an open cell of assertions alone"
        if re.search(r"^predict\(", cell.source, re.MULTILINE):
            yield i, "the answer to a prediction lies open: tag it 'answer'"


def statements(source: str) -> list[ast.stmt]:
    """Of a cell; none where it has lines of IPython, or is no Python, which its execution tells."""
    try:
        return ast.parse(source).body
    except SyntaxError:
        return []


def silent_tolerances(source: str) -> list[int]:
    """Lines of ``allclose`` that say how near in numbers and leave the share to its default.

    That is 1e-5: whatever the other says, an error of five digits passes.
    """
    found = []
    for node in (node for body in statements(source) for node in ast.walk(body)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = {keyword.arg for keyword in node.keywords}
            if node.func.attr in ("allclose", "isclose") and named & {"atol", "rtol"} == {"atol"}:
                found.append(node.lineno)
    return found


def is_sentence(text: str | None) -> bool:
    """Whether an alt text says something: six words or more, and a full stop."""
    return len((text or "").split()) >= 6 and (text or "").rstrip().endswith(".")


def stray_brace(text: str) -> str | None:
    """What begins with a brace in Markdown that is no code, mathematics, role or directive.

    A string that was to be filled in and has no `f` shows its braces to the reader.
    """
    for covered in (
        r"^(`{3,}).*?^\1",
        r"\$\$.*?\$\$|(?<!\\)\$[^$]*\$",
        r"\{[\w:-]+\}(?=`)|^:{3,}\{[\w-]+\}",  # a role, a directive
        r"(`+).*?\1",
    ):
        text = re.sub(covered, "", text, flags=re.MULTILINE | re.DOTALL)
    stray = re.search(r"[{}][^\n]{0,30}", text)
    return stray[0] if stray else None


def lint(path: Path) -> list[str]:
    """What is wrong with a committed notebook."""
    notebook = nbformat.read(path, as_version=4)
    faults: list[str] = []

    def fault(index, text):
        faults.append(f"{path.name}, cell {index}: {text}")

    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [f"{path.name}: not a valid notebook: {error.message}"]
    if dict(notebook.metadata) != METADATA:
        faults.append(f"{path.name}: metadata is not normalised")
    number = path.stem.split("-")[0]
    title = f"# {number} · " if number.isdigit() else "# "
    if not notebook.cells or not notebook.cells[0].source.startswith(title):
        fault(0, f"the title does not begin with '{title}'")
    for i, cell in enumerate(notebook.cells):
        marked = copy.deepcopy(cell)
        mark_up(marked)
        if marked != cell:
            fault(i, "its tags are not written out: run python book/notebooks.py renew")
    written = [[cell.source, tags(cell)] for cell in with_captions(notebook.cells)]
    if written != [[cell.source, tags(cell)] for cell in notebook.cells]:
        faults.append(
            f"{path.name}: captions are not written out: run python book/notebooks.py renew"
        )
    for i, text in lint_layers(number, notebook.cells):
        fault(i, text)
    for i, cell in enumerate(notebook.cells):
        printed = [o.get("data", {}).get("text/markdown", "") for o in cell.get("outputs", [])]
        for text in [cell.source] if cell.cell_type == "markdown" else printed:
            if stray := stray_brace(text):
                fault(i, f"a brace that is no code and no mathematics: {stray}")
    code = [(i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code"]
    if not code or "setup" not in tags(code[0][1]) or code[0][1].source != setup_source():
        faults.append(f"{path.name}: the first code cell is not the set-up cell")
    for expected, (i, cell) in enumerate(code, start=1):
        if not cell.source.strip():
            fault(i, "an empty code cell")
        if cell.execution_count != expected:
            fault(i, f"not executed in order: count {cell.execution_count}, expected {expected}")
        for line in silent_tolerances(cell.source):
            fault(i, f"line {line}: an atol beside the silent rtol of 1e-5: say rtol, too")
        for output in cell.outputs:
            data = output.get("data", {})
            text = data.get("text/plain", "") + output.get("text", "")
            if output.output_type == "error":
                fault(i, f"an error: {output.ename}")
            if output.get("name") == "stderr":
                fault(i, "text on stderr")
            if any(image in data for image in IMAGES):
                fault(i, "an image is not stripped")
            if re.search(r"(?:^|[\s'\"(])(?:/home/|/root/|/tmp/|/work/|[A-Z]:\\\\)", text):
                fault(i, "a path of a machine in the output")
            if re.search(r"\bat 0x[0-9a-f]{6,}", text):
                fault(i, "a memory address in the output")
        data = [output.get("data", {}) for output in cell.outputs]
        shapes = [tag for d in data for tag in re.findall(r"<svg\b[^>]*>", d.get("text/html", ""))]
        shapes = [tag for tag in shapes if 'aria-hidden="true"' not in tag]
        for tag in shapes:
            alt = re.search(r'aria-label="([^"]*)"', tag)
            role = re.search(r'role="(img|group)"', tag)  # a group has links
            if not role or not is_sentence(alt[1] if alt else ""):
                fault(i, "a drawing without an alt text of a full sentence")
        plotted = any("<Figure" in d.get("text/plain", "") for d in data)
        if plotted and not is_sentence(cell.metadata.get("mystnb", {}).get("image", {}).get("alt")):
            fault(i, "a figure without an alt text of a full sentence")
        moves = any("data-interactive" in d.get("text/html", "") for d in data)
        captioned = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption")
        if (plotted or shapes) and not moves and not captioned:
            fault(i, "a figure without a caption")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "lint", "renew"])
    parser.add_argument("paths", nargs="*", type=Path)
    arguments = parser.parse_args()
    paths = [p.resolve() for p in arguments.paths] or pages()
    if arguments.command == "lint":
        faults = [fault for path in paths for fault in lint(path)]
        print("\n".join(faults) or f"{len(paths)} notebooks: nothing to mend")
        return bool(faults)
    if arguments.command == "renew":
        sys.path.insert(0, str(ROOT / "src"))
        failed = False
        for path in paths:
            notebook = nbformat.read(path, as_version=4)
            try:
                changed = renew(notebook)
            except (AttributeError, ImportError) as error:
                failed = True
                print(f"{path.name}: {error}", file=sys.stderr)
                continue
            if changed:
                nbformat.write(notebook, path)
                print(f"{path.name}: {changed} renewed")
        return failed
    cores = os.cpu_count() or 1
    # The notebooks see the source of this checkout, whatever else is installed.
    source = filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])
    os.environ["PYTHONPATH"] = os.pathsep.join(source)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // max(1, len(paths)))))
    failed = False
    with ProcessPoolExecutor(max_workers=cores) as pool:
        for path, error in zip(paths, pool.map(run, paths), strict=True):
            print(f"{path.name}: {'FAILED' if error else 'executed'}", flush=True)
            if error:
                failed = True
                print(error, file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""What is kept of nbval's execution, message by message, without a kernel.

That a build then executes nothing again is asked of a small book in ``test_build.py``.
"""

import contextlib
import os
import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbval import kernel
from nbval.plugin import IPyNbCell

from book import ROOT, load


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The plugin, with a build that notes what is laid into its cache."""
    started = kernel.start_new_kernel
    monkeypatch.setattr(kernel, "start_new_kernel", started)
    build = load(ROOT / "book" / "build.py")
    forked = load(ROOT / "book" / "forked.py")
    monkeypatch.setitem(sys.modules, "book", SimpleNamespace(build=build, forked=forked))
    made = load(ROOT / "book" / "kept.py")
    assert kernel.start_new_kernel is made.start
    made.began = started
    (tmp_path / "_config.yml").write_text("execute: {timeout: 7}", encoding="utf8")
    monkeypatch.setattr(made, "ROOT", tmp_path)
    made.laid = []

    class Cache:
        def __init__(self, folder, digests):
            self.given = folder, digests

        def cache_notebook_bundle(self, bundle, **options):
            made.laid.append((*self.given, bundle, options))

    @contextlib.contextmanager
    def locked(folder):
        assert folder == tmp_path / "_build"
        yield "locked"

    made.chapter = tmp_path / "12-a.ipynb"
    made.build = SimpleNamespace(
        digest=lambda root, path, notebook: f"{path.stem} of {len(notebook.cells)}",
        chapters=lambda root: [tmp_path / "11-a.ipynb", made.chapter],
        locked=locked,
        cache_of=Cache,
        see_source=build.see_source,
    )
    return made


def message(to, kind, **content):
    own = {"msg_type": kind}
    return {"parent_header": {"msg_id": to}, "header": own, **own, "content": content}


class Chapter:
    """nbval's file of a chapter of two code cells, and its kernel."""

    def __init__(self, kept):
        self.plugin, self.path = kept, kept.chapter
        new = nbformat.v4
        cells = [new.new_markdown_cell("# A"), new.new_code_cell("1"), new.new_code_cell("2")]
        cells[1].outputs = [new.new_output("stream", text="of the committed notebook")]
        self.nb = new.new_notebook(cells=cells)
        self.asked, self.says = [], []
        client = SimpleNamespace(execute=self.execute, kernel_info=self.info)
        self.kernel = SimpleNamespace(kc=client)

    def execute(self, source, **options):
        self.asked.append((source, options))
        return f"id {len(self.asked)}"

    def info(self, **options):
        assert options == {"reply": True, "timeout": 60}
        return {"content": {"language_info": {"name": "python", "version": "3.11.9"}}}

    def get_kernel_message(self, *given, **named):
        return self.says.pop(0)

    def run(self, number, *texts, fails=False, ends=True):
        """A cell as pytest runs it, which prints these texts."""
        item = object.__new__(IPyNbCell)
        item.parent, item.cell_num = self, number
        around = self.plugin.pytest_runtest_call(item)
        next(around)
        own = self.kernel.execute_cell_input(f"cell {number}", allow_stdin=False)
        self.says = [message("of another", "stream", name="stdout", text="stray")]
        self.says.append(message(own, "execute_input", execution_count=number + 1))
        self.says += [message(own, "stream", name="stdout", text=text) for text in texts]
        self.says += [message(own, "status", execution_state="idle")] * ends
        self.says.append(message(own, "stream", name="stdout", text="too late"))
        while self.says:
            self.get_kernel_message(timeout=1)
        if fails:
            with pytest.raises(AssertionError):
                around.throw(AssertionError("differs"))
            return
        with pytest.raises(StopIteration):
            around.send(None)


def test_a_chapter_that_passed_whole_is_laid_into_the_cache(kept, monkeypatch):
    clock = iter([10.0, 11.5, 20.0, 22.0])
    monkeypatch.setattr(kept.time, "monotonic", lambda: next(clock))
    chapter = Chapter(kept)
    chapter.run(0, "a", "b")
    assert kept.laid == []
    chapter.run(1)
    ((folder, digests, bundle, options),) = kept.laid
    uri = str(kept.chapter)
    assert (folder, digests) == ("locked", {uri: "12-a of 3"})
    assert options == {"check_validity": True, "overwrite": True}
    assert bundle.uri == uri and bundle.data == {"execution_seconds": 3.5}
    first, second = bundle.nb.cells[1:]
    assert "".join(output.text for output in first.outputs) == "ab" and second.outputs == []
    assert (first.execution_count, second.execution_count) == (1, 2)
    assert "execution" not in first.metadata
    assert bundle.nb.metadata["language_info"] == {"name": "python", "version": "3.11.9"}
    assert chapter.nb.cells[1].outputs[0].text == "of the committed notebook"
    options = {"store_history": True, "allow_stdin": False, "stop_on_error": False}
    assert chapter.asked == [("cell 0", options), ("cell 1", options)]


@pytest.mark.parametrize(
    "ran", [[1, 0], [0, 0, 1], [1], [0], [1, 1]], ids=lambda ran: "".join(map(str, ran))
)
def test_cells_that_did_not_run_once_and_in_order_are_not_kept(kept, ran):
    chapter = Chapter(kept)
    for number in ran:
        chapter.run(number)
    assert kept.laid == []


@pytest.mark.parametrize("failed", [0, 1])
def test_a_chapter_of_which_a_cell_failed_is_not_kept(kept, failed):
    chapter = Chapter(kept)
    for number in (0, 1):
        chapter.run(number, fails=number == failed)
    assert kept.laid == []


@pytest.mark.parametrize(("seconds", "laid"), [(6.9, True), (7.0, False)])
def test_what_a_build_would_have_ended_is_not_kept(kept, monkeypatch, seconds, laid):
    clock = iter([0.0, seconds, 10.0, 11.0])
    monkeypatch.setattr(kept.time, "monotonic", lambda: next(clock))
    chapter = Chapter(kept)
    chapter.run(0)
    chapter.run(1)
    assert bool(kept.laid) == laid


def test_a_page_that_a_build_does_not_execute_is_not_kept(kept):
    kept.build.chapters = lambda root: []
    chapter = Chapter(kept)
    chapter.run(0)
    chapter.run(1)
    assert kept.laid == []


def test_what_is_cleared_is_cleared_in_its_own_cell(kept):
    """A cell that ends with a clearing that waits leaves the next cell's outputs alone."""
    chapter = Chapter(kept)
    item = object.__new__(IPyNbCell)
    item.parent, item.cell_num = chapter, 0
    around = kept.pytest_runtest_call(item)
    next(around)
    own = chapter.kernel.execute_cell_input("clears")
    chapter.says = [message(own, "stream", name="stdout", text="stays")]
    chapter.says.append(message(own, "clear_output", wait=True))
    while chapter.says:
        chapter.get_kernel_message()
    with pytest.raises(StopIteration):
        around.send(None)
    chapter.run(1, "one", ends=False)
    ((_, _, bundle, _),) = kept.laid
    texts = ["".join(o.text for o in cell.outputs) for cell in bundle.nb.cells[1:]]
    assert texts == ["stays", "onetoo late"]


def test_other_tests_run_as_they_are(kept):
    around = kept.pytest_runtest_call(SimpleNamespace())
    next(around)
    with pytest.raises(StopIteration) as ended:
        around.send("result")
    assert ended.value.value == "result"


@pytest.fixture
def forks(kept, monkeypatch):
    """The Pythons that were asked for, of a book of which one chapter names two packages."""
    made = []

    class Preloaded:
        def __init__(self, *modules, env):
            self.modules, self.env, self.ended = modules, env, False
            made.append(self)

        def kernel(self):
            raise AssertionError("no kernel is started here")

        def __exit__(self):
            self.ended = True

    monkeypatch.setattr(kept.forked, "Preloaded", Preloaded)
    kept.build.chapters = lambda root: [kept.chapter]
    kept.chapter.write_text("import sympy\nimport torch", encoding="utf8")
    return made


def test_a_kernel_starts_as_a_build_s_does(kept, forks, monkeypatch):
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "this")
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setenv("OTHER", "stays")
    launch, asked = kept.local_provisioner.launch_kernel, []

    def start(*given, **named):
        asked.append((given, named))
        assert not [name for name in os.environ if name.startswith("PYTEST_")]
        assert os.environ["PYTHONPATH"] == f"{kept.ROOT / 'src'}{os.pathsep}before"
        assert os.environ["OTHER"] == "stays"
        assert kept.local_provisioner.launch_kernel == forks[0].kernel
        return "a kernel"

    assert kept.start("python3", start=start, cwd="there") == "a kernel"
    options = {"extra_arguments": ["--HistoryManager.hist_file=:memory:"], "cwd": "there"}
    assert asked == [(("python3",), options)]
    assert os.environ["PYTEST_CURRENT_TEST"] == "this" and os.environ["PYTHONPATH"] == "before"
    assert kept.local_provisioner.launch_kernel is launch
    assert kept.start.__kwdefaults__["start"] is kept.began


def test_kernels_are_forks_of_a_python_that_has_imported_nothing_of_ours(kept, forks, monkeypatch):
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "this")
    kept.pytest_unconfigure()
    assert forks == []
    for name in ("one", "other"):
        kept.start(name, start=lambda *given, **named: None)
    (python,) = forks
    assert python.modules == ("ipykernel.kernelapp", "sympy", "torch._dynamo")
    assert not [name for name in kept.IMPORTS if name.startswith("linear_time")]
    assert python.env["JPY_PARENT_PID"] == str(os.getpid())
    assert python.env["MPLBACKEND"] == "module://matplotlib_inline.backend_inline"
    assert python.env["PYTHONPATH"].startswith(str(kept.ROOT / "src"))
    assert "PYTEST_CURRENT_TEST" not in python.env and not python.ended
    kept.pytest_unconfigure()
    assert python.ended
    kept.start("later", start=lambda *given, **named: None)
    assert len(forks) == 2


def test_a_kernel_on_a_mac_is_no_fork(kept, forks, monkeypatch):
    monkeypatch.setattr(kept.sys, "platform", "darwin")
    launch = kept.local_provisioner.launch_kernel

    def start(name, extra_arguments):
        assert kept.local_provisioner.launch_kernel is launch
        return name, extra_arguments

    assert kept.start("mac", start=start) == ("mac", ["--HistoryManager.hist_file=:memory:"])
    assert forks == []

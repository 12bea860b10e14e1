"""What runs elsewhere: workflows and the bot's settings name what is there."""

import ast
import importlib.metadata
import re
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement

import everywhere
from book import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
every = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
#: Actions, with the least version that the workflows were written for.
ACTIONS = {
    "actions/checkout": 4,
    "actions/setup-python": 5,
    "actions/cache": 4,
    "actions/upload-artifact": 4,
    "actions/upload-pages-artifact": 3,
    "actions/deploy-pages": 4,
}


def read(path):
    found = yaml.safe_load(path.read_text(encoding="utf8"))
    found["on"] = found.pop(True)  # YAML 1.1 reads the key "on" so
    return found


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def targets():
    text = (ROOT / "Makefile").read_text(encoding="utf8")
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


@every
def test_a_workflow_is_whole(path):
    """It says when it runs, may only read unless it publishes, and ends by itself."""
    workflow = read(path)
    assert workflow["name"] == path.stem and workflow["on"]
    allowed = {"contents": "read"}
    if path.stem == "pages":
        allowed |= {"pages": "write", "id-token": "write"}
    assert workflow["permissions"] == allowed
    for job in workflow["jobs"].values():
        assert re.fullmatch(r"ubuntu-\d\d\.04", job["runs-on"])
        assert 0 < job["timeout-minutes"] <= 360
        assert job["steps"][0]["uses"].startswith("actions/checkout@")


@every
def test_actions_are_those_that_are_known(path):
    for step in steps(read(path)):
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            name, _, version = step["uses"].partition("@v")
            assert int(version) >= ACTIONS[name]


@every
def test_commands_exist(path):
    """Targets of the Makefile, files of the checkout, and shell that parses."""
    made = set()
    for step in steps(read(path)):
        if "run" not in step:
            continue
        source = re.sub(r"\$\{\{[^}]*\}\}", "value", step["run"])
        subprocess.run(["bash", "-n", "-c", source], check=True)
        for line in source.splitlines():
            program, *rest = line.split()
            if program == "make":
                assert rest[0] in targets(), line
            elif program == ".ci/run":
                assert (ROOT / program).stat().st_mode & 0o111
            else:
                place, _, name = program.rpartition("/")
                assert name in ("python", "value") and place in (".venv/bin", "alone/bin", "")
                made |= {".venv", "alone"} & {place.partition("/")[0]}
    if made:
        assert "make venv" in path.read_text(encoding="utf8")


@every
def test_expressions_name_what_is_there(path):
    """Of steps by their ids, of the matrix by its keys."""
    workflow = read(path)
    text = path.read_text(encoding="utf8")
    ids = {step["id"] for step in steps(workflow) if "id" in step}
    assert set(re.findall(r"steps\.(\w+)\.", text)) <= ids
    keys = {
        k for job in workflow["jobs"].values() for k in job.get("strategy", {}).get("matrix", ())
    }
    assert set(re.findall(r"matrix\.(\w+)", text)) == keys
    for patterns in re.findall(r"hashFiles\(([^)]*)\)", text):
        for pattern in re.findall(r"'([^']*)'", patterns):
            assert any(ROOT.glob(pattern)), pattern


def test_what_the_house_asks_for():
    """The two commands at every push; the wheel on three Pythons; pages at a release; weekly."""
    on = {path.stem: read(path)["on"] for path in WORKFLOWS}
    assert on["tests"]["push"] == {"branches": ["main"]} and "pull_request" in on["tests"]
    assert on["pages"]["release"] == {"types": ["published"]}
    assert re.fullmatch(r"\d+ \d+ \* \* \d", on["weekly"]["schedule"][0]["cron"])
    wheel = read(ROOT / ".github" / "workflows" / "wheel.yml")
    assert wheel["jobs"]["alone"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    assert 'requires-python = ">=3.11"' in declared
    both = (ROOT / ".ci" / "run").read_text(encoding="utf8")
    assert "make test" in both and "make book" in both


def test_the_bot_s_settings():
    settings = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf8"))
    assert settings["version"] == 2
    assert {u["package-ecosystem"] for u in settings["updates"]} == {"pip", "github-actions"}
    pip = next(u for u in settings["updates"] if u["package-ecosystem"] == "pip")
    assert pip["directory"] == "/" and (ROOT / "requirements.txt").exists()
    assert pip["ignore"] == [{"dependency-name": "jupyter-book", "versions": [">=2"]}]


def test_the_changelog_is_newest_first():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf8")
    days = [int(day) for day in re.findall(r"^### (\d+) November 2026$", text, re.MULTILINE)]
    assert days == sorted(days, reverse=True) and len(days) >= 3


def test_another_python_is_asked_for_what_the_tests_of_the_package_import():
    """What it lacks is named before the tests begin: one import that fails would end them all."""
    tests, scripts = sorted((ROOT / "tests").glob("*.py")), [*(ROOT / "experiments").glob("*.py")]
    ours = {path.stem: path for path in [*scripts, *tests]}
    assert {f"test_{name}" for name in everywhere.BOOK} <= ours.keys()
    waiting = [path for path in tests if path.stem.removeprefix("test_") not in everywhere.BOOK]
    waiting = [path for path in waiting if path.stem.startswith("test_")] + [ours["conftest"]]
    waiting += [*scripts, *(ROOT / "src").rglob("*.py")]
    read, packages = set(), set()
    while waiting:
        path = waiting.pop()
        if path in read:
            continue
        read.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name in ours:
                    waiting.append(ours[name])
                elif name not in sys.stdlib_module_names | {"linear_time", "triton"}:
                    packages.add(name)
    assert packages <= set(everywhere.NEEDED)
    assert set(everywhere.NEEDED) - packages == {"xdist"}  # a plugin


def test_no_schema_asks_for_what_the_makefile_hides():
    """Without rfc3987_syntax jsonschema knows no format iri, and takes any text for one."""
    assert """sys.modules["rfc3987_syntax"] = None""" in (ROOT / "Makefile").read_text(
        encoding="utf8"
    )
    schemas = {}
    for package in importlib.metadata.distributions():
        if any(Requirement(text).name == "jsonschema" for text in package.requires or []):
            for file in package.files or []:
                if file.suffix in (".json", ".yml", ".yaml"):
                    schemas[str(file)] = file.locate().read_text(encoding="utf8")
    asked = {
        file: re.findall(r"""["']?\bformat["']?: *["']?([a-z-]+)""", text)
        for file, text in schemas.items()
    }
    assert any("uri" in formats for formats in asked.values())  # jupyter_events' own
    assert not any({"iri", "iri-reference"} & set(formats) for formats in asked.values())

"""Where a reader runs a chapter without installing anything: Binder, a container, Colab.

No Docker here: that the lists name what the package declares, and nothing that it does not need.
That a chapter runs with just that is what `test_alone.py` executes, in an empty folder.
"""

import json
import re
import subprocess
import tomllib
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from book import ROOT, load

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
LISTED = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text(encoding="utf8"))
BY_PIP = next(item["pip"] for item in LISTED["dependencies"] if isinstance(item, dict))
BY_CONDA = [item for item in LISTED["dependencies"] if isinstance(item, str)]
#: What runs the notebooks; all else is the package's own.
TO_RUN = {"python", "pip", "ipykernel", "jupyterlab", "jupyterlab-myst"}
NAMES = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}  # conda-forge's names


def named(line: str) -> tuple[str, str]:
    """A name as pip knows it, and the versions."""
    name, versions = re.fullmatch(r"([\w-]+)(.*)", line).groups()
    return NAMES.get(name.lower(), name.lower()), versions


def test_the_list_is_what_the_package_declares() -> None:
    declared = {r.name.lower(): str(r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    listed = dict(map(named, [*BY_CONDA, *BY_PIP]))
    assert {name: versions for name, versions in listed.items() if name not in TO_RUN} == declared
    assert set(listed) - set(declared) == TO_RUN


def test_what_pip_installs_there_is_pinned_here() -> None:
    pins = (ROOT / "requirements.txt").read_text(encoding="utf8").lower()
    for name, versions in map(named, BY_PIP):
        pinned = re.search(rf"^{name}==(.*)$", pins, re.MULTILINE)
        assert pinned and pinned[1] in SpecifierSet(versions)


@pytest.mark.parametrize("version", ["3.11.9", "3.12.12", "3.13.9"])
def test_the_package_installs_on_the_pythons_of_colab_and_binder(version: str) -> None:
    assert version in SpecifierSet(PROJECT["requires-python"])
    python = next(line for line in BY_CONDA if line.startswith("python="))
    assert f"{python.partition('=')[2]}.0" in SpecifierSet(PROJECT["requires-python"])


def test_the_first_cell_refuses_no_python() -> None:
    source = load(ROOT / "book" / "notebooks.py").setup_source()
    assert "version" not in source
    plain = source.replace("%pip install -q", "pip = 'install'  #")
    compile(plain, "first cell", "exec")
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))["repository"]
    address = re.search(r"git\+(\S+)", source)[1]
    assert address == repository["url"] and urlsplit(address).scheme == "https"


def test_the_package_is_installed_at_the_end() -> None:
    script = ROOT / "binder" / "postBuild"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "pip install --no-deps" in script.read_text(encoding="utf8")


def test_the_container_has_the_same_environment() -> None:
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf8")
    for part in ("--file binder/environment.yml", "RUN binder/postBuild"):
        assert part in recipe
    copied = re.findall(r"^COPY --chown=\S+ (\S+)", recipe, re.MULTILINE)
    assert copied and all((ROOT / name).exists() for name in copied)
    container = json.loads(
        (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf8")
    )
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve().is_file()


def test_what_the_container_leaves_out_is_not_the_book() -> None:
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf8").split()
    assert {".git", ".venv", "_build"} <= set(left_out)
    assert not {"src", "chapters", "binder", "pyproject.toml", "LICENSE", "README.md"} & set(
        left_out
    )

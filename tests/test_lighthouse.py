"""What measures the pages: a host that compresses, goals, and clear words where nothing can be."""

import gzip
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from book import ROOT, load

lighthouse = load(ROOT / "book" / "lighthouse.py")


def report(**scores: float) -> dict:
    """A report in which every category is perfect but those named."""
    audits = {
        "largest-contentful-paint": (1.0, 1512.4, "numeric"),
        "total-blocking-time": (0.5, 340.0, "numeric"),
        "cumulative-layout-shift": (1.0, 0, "numeric"),
        "total-byte-weight": (1.0, 163 * 1024, "numeric"),
        "dom-size": (0, 5347, "numeric"),
        "color-contrast": (0, None, "binary"),
        "redirects": (None, None, "notApplicable"),
    }
    weights = {"total-blocking-time": 30, "dom-size": 0, "color-contrast": 7, "redirects": 1}
    return {
        "audits": {
            name: {"score": score, "numericValue": value, "scoreDisplayMode": mode}
            for name, (score, value, mode) in audits.items()
        }
        | {"network-requests": {"details": {"items": [{}] * 12}}},
        "categories": {
            name: {
                "score": scores.get(name.replace("-", "_"), 1),
                "auditRefs": [
                    {"id": audit, "weight": weight}
                    for audit, weight in weights.items()
                    if (audit == "color-contrast") == (name == "accessibility")
                ]
                * (name in ("performance", "accessibility")),
            }
            for name in lighthouse.CATEGORIES
        },
    }


def test_a_report_is_read() -> None:
    one = lighthouse.read(report(performance=0.88), "a.html", "phone")
    assert one.scores == {
        "performance": 88,
        "accessibility": 100,
        "best-practices": 100,
        "seo": 100,
    }
    assert one.counts == {
        "paint s": 1.5, "blocked ms": 340, "shift": 0, "KiB": 163, "requests": 12, "elements": 5347
    }  # fmt: skip
    assert one.audits == ["total-blocking-time", "color-contrast"]


def test_goals_are_those_of_the_form() -> None:
    made = {
        form: lighthouse.read(report(performance=0.95, seo=0.99), "a.html", form)
        for form in ("phone", "desktop")
    }
    assert made["phone"].missed() == ["seo"]
    assert made["desktop"].missed() == ["performance", "seo"]
    heavy = report()
    heavy["audits"]["total-byte-weight"]["numericValue"] = 251 * 1024
    heavy["audits"]["cumulative-layout-shift"]["numericValue"] = 0.004
    assert lighthouse.read(heavy, "a.html", "phone").missed() == ["KiB", "shift"]


def test_a_page_that_was_not_measured_has_no_score() -> None:
    with pytest.raises(lighthouse.Failed, match=r"a\.html: it hung"):
        lighthouse.read({"runtimeError": {"message": "it hung"}}, "a.html", "phone")
    half = report()
    half["categories"]["seo"]["score"] = None
    with pytest.raises(lighthouse.Failed, match=r"a\.html: no score for seo"):
        lighthouse.read(half, "a.html", "phone")


def test_the_table_says_what_missed_its_goal() -> None:
    one = lighthouse.read(report(performance=0.88), "a.html", "phone")
    head, _, row = lighthouse.table([one]).splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert cells["performance"] == "**88**" and cells["seo"] == "100" and cells["KiB"] == "163"


def test_a_static_host_compresses_text(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("word " * 1000, encoding="utf8")
    (tmp_path / "a.webp").write_bytes(b"picture")
    with lighthouse.served(tmp_path) as address:
        for name, encoding in (("a.html", "gzip"), ("a.webp", None)):
            asked = urllib.request.Request(address + name, headers={"Accept-Encoding": "gzip"})
            with urllib.request.urlopen(asked, timeout=10) as answer:
                assert answer.headers["Content-Encoding"] == encoding
                data = answer.read()
                assert (gzip.decompress(data) if encoding else data) == (
                    tmp_path / name
                ).read_bytes()
        with urllib.request.urlopen(address + "a.html", timeout=10) as answer:
            assert answer.read() == (tmp_path / "a.html").read_bytes()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + "none.html", timeout=10)


def test_without_npm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(lighthouse.Failed, match="npm was not found, so nothing was measured"):
        lighthouse.installed(tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_npm_is_asked_once_and_its_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in npm's place writes down that it was called, and installs nothing."""
    for name in ("npm", "node"):
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n', encoding="utf8"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(lighthouse.Failed, match="npm could not install it"):
        lighthouse.installed(tmp_path / "there")
    calls = (tmp_path / "calls").read_text(encoding="utf8")
    assert calls.count("\n") == 1 and f"lighthouse@{lighthouse.VERSION}" in calls
    modules = tmp_path / "there" / "node_modules" / "lighthouse"
    modules.mkdir(parents=True)
    version = json.dumps({"version": lighthouse.VERSION})
    (modules / "package.json").write_text(version, encoding="utf8")
    lighthouse.installed(tmp_path / "there")
    assert (tmp_path / "calls").read_text(encoding="utf8") == calls


def test_what_is_not_rendered_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["lighthouse.py", "--build", str(tmp_path), "chapters/x.html"])
    assert lighthouse.main() == 1
    assert "chapters/x.html: not rendered" in capsys.readouterr().err


def test_pages_are_all_of_the_book(tmp_path: Path) -> None:
    for name in ("book/api/scan.html", "chapters/99-x.html", "_static/y.html", "index.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert lighthouse.pages(tmp_path) == ["book/api/scan.html", "chapters/99-x.html"]
    assert "--preset=desktop" in lighthouse.command(Path("l"), "u", "desktop", Path("t"))
    assert "--preset=desktop" not in lighthouse.command(Path("l"), "u", "phone", Path("t"))

"""What measures the pages: a host that compresses, goals, and clear words where nothing can be."""

import gzip
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from book import ROOT, AtOnce, load

lighthouse = load(ROOT / "book" / "lighthouse.py")


@pytest.fixture(autouse=True)
def ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host looks every half second whether it is to end: the tests need not wait for it."""
    host = lighthouse.http.server.ThreadingHTTPServer
    serve = host.serve_forever
    monkeypatch.setattr(host, "serve_forever", lambda self: serve(self, 0.01))


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


def test_seconds_and_kibibytes_are_rounded_where_they_should_be() -> None:
    given = report()
    numbers = {
        "largest-contentful-paint": 151_960.0, "total-blocking-time": 0.5001,
        "cumulative-layout-shift": 0.00249, "total-byte-weight": 1000 * 1024.0 + 511,
        "dom-size": 7.6,
    }  # fmt: skip
    for name, value in numbers.items():
        given["audits"][name]["numericValue"] = value
    assert lighthouse.read(given, "a", "phone").counts == {
        "paint s": 152.0, "blocked ms": 1, "shift": 0.002,
        "KiB": 1000, "requests": 12, "elements": 8,
    }  # fmt: skip
    given["audits"] = {
        name: audit
        for name, audit in given["audits"].items()
        if name in ("color-contrast", "redirects")
    }
    given["categories"]["performance"]["auditRefs"] = []
    assert set(lighthouse.read(given, "a", "phone").counts.values()) == {0}


@pytest.mark.parametrize(
    ("score", "mode", "weight", "costs"),
    [
        (0.89, "numeric", 1, True), (0.9, "numeric", 1, False), (0.0, "binary", 1, True),
        (None, "metricSavings", 1, True), (0.0, "informative", 1, False),
        (0.0, "numeric", 0, False),
    ],
)  # fmt: skip
def test_which_audits_cost_points(score: float, mode: str, weight: int, costs: bool) -> None:
    given = report()
    given["audits"]["x"] = {"score": score, "scoreDisplayMode": mode}
    for category in given["categories"].values():
        category["auditRefs"] = []
    given["categories"]["seo"]["auditRefs"] = [{"id": "x", "weight": weight}]
    given["categories"]["seo"]["score"] = 0.994
    one = lighthouse.read(given, "a", "phone")
    assert one.audits == ["x"] * costs and one.scores["seo"] == 99
    assert (one.page, one.form) == ("a", "phone")


def test_the_least_and_the_most_are_enough() -> None:
    goals = {"phone": (95, 100, 100, 100), "desktop": (100, 100, 100, 100)}
    assert {form: tuple(least.values()) for form, least in lighthouse.GOALS.items()} == goals
    for form, (speed, *_) in goals.items():
        given = report(performance=speed / 100)
        given["audits"]["total-byte-weight"]["numericValue"] = 250 * 1024
        assert lighthouse.read(given, "a", form).missed() == []
        given["categories"]["performance"]["score"] = (speed - 1) / 100
        assert lighthouse.read(given, "a", form).missed() == ["performance"]


def test_the_table_of_all() -> None:
    assert lighthouse.table([]).splitlines()[1] == "|---|---|" + "---:|" * 4 + "---|"
    one = lighthouse.Measured(
        "a.html", "phone", {"performance": 94, "accessibility": 100, "best-practices": 100,
                            "seo": 100}, {"KiB": 250, "shift": 0.1}, ["x", "y"],
    )  # fmt: skip
    text = lighthouse.table([one, one._replace(form="desktop", audits=[])])
    assert text == (
        "| page | form | performance | accessibility | best-practices | seo | KiB | shift "
        "| what costs points |\n|---|---|---:|---:|---:|---:|---:|---:|---|\n"
        "| a.html | phone | **94** | 100 | 100 | 100 | 250 | **0.1** | x, y |\n"
        "| a.html | desktop | **94** | 100 | 100 | 100 | 250 | **0.1** |  |\n"
    )


def test_the_host_answers_as_a_static_host_does(tmp_path: Path, capfd) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "index.html").write_text("<p>x", encoding="utf8")
    kinds = {
        "a.js": "text/javascript", "a.svg": "image/svg+xml", "a.png": "image/png",
        "a.json": "application/json", "a.xml": "xml", "a.txt": "text/plain", "a.css": "text/css",
    }  # fmt: skip
    for name in kinds:
        (tmp_path / name).write_text("word " * 1000, encoding="utf8")
    with lighthouse.served(tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
        for name in ("deep", "deep/"):
            with urllib.request.urlopen(address + name, timeout=10) as answer:
                assert answer.read() == b"<p>x" and answer.version == 11
                assert answer.headers["Content-Type"] == "text/html"
                assert answer.headers["Cache-Control"] == "max-age=31536000"
                assert answer.headers["Content-Length"] == "4" and answer.status == 200
        for name, kind in kinds.items():
            asked = urllib.request.Request(address + name, headers={"Accept-Encoding": "br, gzip"})
            with urllib.request.urlopen(asked, timeout=10) as answer:
                assert kind in answer.headers["Content-Type"]
                zipped = answer.headers["Content-Encoding"] == "gzip"
                assert zipped == (name != "a.png")
                data = answer.read()
                assert len(data) == int(answer.headers["Content-Length"])
                text = gzip.decompress(data) if zipped else data
                assert not zipped or data[10:] == gzip.compress(text, 6)[10:]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=10)
    assert capfd.readouterr().err == "", "it keeps no log"


def test_the_command_of_a_measurement() -> None:
    given = lighthouse.command(Path("l"), "u", "desktop", Path("t"))
    assert given == [
        "l", "u", "--quiet", "--output=json", "--output-path=t",
        "--only-categories=performance,accessibility,best-practices,seo",
        "--max-wait-for-load=60000",
        "--chrome-flags=--headless=new --no-sandbox --disable-gpu", "--preset=desktop",
    ]  # fmt: skip


@pytest.mark.parametrize("version", [None, "1.0", lighthouse.VERSION])
def test_npm_installs_what_is_not_there(
    version: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "a" / "b", []
    program = folder / "node_modules" / ".bin" / "lighthouse"
    there = folder / "node_modules" / "lighthouse" / "package.json"
    if version:
        there.parent.mkdir(parents=True)
        there.write_text(json.dumps({"version": version}), encoding="utf8")
    programs = {"npm": "/bin/npm", "node": "/bin/node"}
    monkeypatch.setattr(lighthouse.shutil, "which", lambda name: programs.get(name))

    def run(command: list, stdin: int) -> object:
        asked.append((command, stdin))
        assert folder.is_dir()
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch()
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(lighthouse.subprocess, "run", run)
    code = 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out := AtOnce())
        assert lighthouse.installed(folder) == program
    options = ["--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error"]
    name = f"lighthouse@{lighthouse.VERSION}"
    command = ["/bin/npm", "install", "--prefix", str(folder), *options, name]
    news = version != lighthouse.VERSION
    assert asked == [(command, subprocess.DEVNULL)] * news
    said = f"Installing Lighthouse {lighthouse.VERSION} into {folder}\n"
    assert out.seen == out.getvalue() == said * news
    if news:
        code = 1
        with pytest.raises(lighthouse.Failed, match="npm could not install it"):
            lighthouse.installed(folder)
    for name in ("node", "npm"):
        programs[name] = None
        with pytest.raises(lighthouse.Failed, match="npm was not found"):
            lighthouse.installed(folder)
        programs[name] = "there"


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lighthouse's place is taken by what writes a report, or does not."""
    asked: list = []
    given = SimpleNamespace(asked=asked, writes=True, browser="a browser", scores={})
    monkeypatch.setitem(
        sys.modules, "browser",
        SimpleNamespace(find=lambda: given.browser, MISSING="NO BROWSER: none\nlong text"),
    )  # fmt: skip
    monkeypatch.setattr(lighthouse, "installed", lambda folder: folder / "program")

    def run(command: list, **options: object) -> object:
        target = Path(command[4].removeprefix("--output-path="))
        assert not target.exists()
        with urllib.request.urlopen(command[1], timeout=10) as answer:
            asked.append((command[1].split("/", 3)[3], "--preset=desktop" in command, options))
            assert answer.status == 200
        if given.writes:
            target.write_text(json.dumps(report(**given.scores)), encoding="utf8")
        return subprocess.CompletedProcess(command, 0, "", "e" * 3000)

    monkeypatch.setattr(lighthouse.subprocess, "run", run)
    for name in ("book/a.html", "chapters/b.html"):
        (tmp_path / "html" / name).parent.mkdir(parents=True)
        (tmp_path / "html" / name).touch()
    (tmp_path / "lighthouse").mkdir()
    return given


def test_each_page_is_measured_in_each_form(measured, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("OWN", "kept")
    names, folder = ["book/a.html", "chapters/b.html"], tmp_path / "lighthouse"
    found = lighthouse.measure(tmp_path / "html", names, ["phone", "desktop"], folder)
    assert [(one.page, one.form) for one in found] == [
        (name, form) for name in names for form in ("phone", "desktop")
    ]  # fmt: skip
    assert [one[:2] for one in measured.asked] == [
        (name, desk) for name in names for desk in (False, True)
    ]  # fmt: skip
    options = measured.asked[0][2]
    environment = options.pop("env")
    assert (environment["CHROME_PATH"], environment["OWN"]) == ("a browser", "kept")
    assert options == {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    said = capsys.readouterr().out.splitlines()
    costs = "total-blocking-time, color-contrast"
    assert said[:2] == [
        f"book/a.html phone: 100 100 100 100 {costs}",
        f"book/a.html desktop: 100 100 100 100 {costs}",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out := AtOnce())
        lighthouse.measure(tmp_path / "html", names[:1], ["phone"], folder)
    assert out.all_seen(), "a measurement takes a while"
    measured.writes = False
    with pytest.raises(lighthouse.Failed) as told:
        lighthouse.measure(tmp_path / "html", names, ["phone"], folder)
    assert str(told.value) == "book/a.html: Lighthouse wrote no report\n" + "e" * 2000
    measured.browser = None
    with pytest.raises(lighthouse.Failed, match=r"^NO BROWSER: none$"):
        lighthouse.measure(tmp_path / "html", names, ["phone"], folder)


@pytest.mark.parametrize(
    ("options", "scores", "code", "number", "miss"),
    [
        ([], {}, 0, 4, 0), (["--forms", "phone"], {}, 0, 2, 0),
        (["book/a.html"], {"seo": 0.5}, 1, 2, 2), ([], {"performance": 0.96}, 1, 4, 2),
    ],
)  # fmt: skip
def test_the_command_writes_a_table_and_says_what_missed(
    measured, tmp_path: Path, capsys, monkeypatch, options, scores, code, number, miss
) -> None:
    measured.scores = scores
    monkeypatch.setattr("sys.argv", ["lighthouse.py", "--build", str(tmp_path), *options])
    assert lighthouse.main() == code
    last = capsys.readouterr().out.splitlines()[-1]
    head, _, tail = last.partition(f": {number} measurements in ")
    assert head == str(tmp_path / "lighthouse.md") and tail.endswith(
        f"s, {miss} of them miss a goal"
    )
    assert 0 <= int(tail.split()[0]) < 60
    text = (tmp_path / "lighthouse.md").read_text(encoding="utf8")
    assert text.count("\n") == number + 2
    measured.browser = None
    assert lighthouse.main() == 1 and "NO BROWSER" in capsys.readouterr().err


def test_a_book_that_is_not_rendered_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["lighthouse.py", "--build", str(tmp_path)])
    assert lighthouse.main() == 1
    assert capsys.readouterr().err == "the book: not rendered, run `make book` first\n"

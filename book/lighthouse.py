"""Measure the rendered pages with Lighthouse, as a telephone and a desk see them; write a table.

    python book/lighthouse.py [PAGE …] [--forms phone desktop]

The pages of _build/html are served from this machine, compressed as a static host does. npm
installs Lighthouse into _build/lighthouse; the browser is that of the site's checks. The table is
_build/lighthouse.md, in it each page's scores, what missed its goal in bold. A page is measured
once: on a busy machine its speed, unlike the counts, is worth less.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VERSION = "12.8.2"  # the last that runs with Node 18 and 20
CATEGORIES = ("performance", "accessibility", "best-practices", "seo")
#: The least score of each category, and the most of what is counted.
GOALS = {
    "phone": {"performance": 95, "accessibility": 100, "best-practices": 100, "seo": 100},
    "desktop": {"performance": 100, "accessibility": 100, "best-practices": 100, "seo": 100},
}
MOST = {"KiB": 250, "shift": 0}
NO_NPM = (
    "NO LIGHTHOUSE: npm was not found, so nothing was measured.\n"
    "Install Node 18 or newer with npm (Debian: apt-get install nodejs npm)."
)
COMPRESSED = (".html", ".css", ".js", ".svg", ".json", ".xml", ".txt")


class Failed(Exception):
    """Nothing was measured, and why."""


class Measured(NamedTuple):
    """What Lighthouse says of a page in one form; `audits` are those that cost points."""

    page: str
    form: str
    scores: dict[str, int]
    counts: dict[str, float]
    audits: list[str]

    def missed(self) -> list[str]:
        """The categories and counts that miss their goals."""
        low = [name for name, least in GOALS[self.form].items() if self.scores[name] < least]
        return low + [name for name, most in MOST.items() if self.counts[name] > most]


class Host(http.server.SimpleHTTPRequestHandler):
    """A static host: text compressed, files that a page asks for kept by the browser."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            path /= "index.html"
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        if path.suffix in COMPRESSED and "gzip" in self.headers.get("Accept-Encoding", ""):
            data = gzip.compress(data, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "max-age=31536000")
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of a site while it is served from this machine."""
    handler = functools.partial(Host, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def pages(site: Path) -> list[str]:
    """Every page of the book, by its place on the site."""
    found = [path for folder in ("book", "chapters") for path in (site / folder).rglob("*.html")]
    return sorted(path.relative_to(site).as_posix() for path in found)


def installed(folder: Path) -> Path:
    """Lighthouse's program, which npm installs where it is not yet.

    Raises:
        Failed: there is no npm, or it cannot install.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Failed(NO_NPM)
    program = folder / "node_modules" / ".bin" / "lighthouse"
    there = folder / "node_modules" / "lighthouse" / "package.json"
    if there.is_file() and json.loads(there.read_text(encoding="utf8"))["version"] == VERSION:
        return program
    print(f"Installing Lighthouse {VERSION} into {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    # Its packages' scripts would fetch browsers; one is there.
    options = ["--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error"]
    install = [npm, "install", "--prefix", str(folder), *options, f"lighthouse@{VERSION}"]
    if subprocess.run(install, stdin=subprocess.DEVNULL).returncode or not program.exists():
        raise Failed("NO LIGHTHOUSE: npm could not install it, see above; nothing was measured.")
    return program


def command(program: Path, url: str, form: str, target: Path) -> list[str]:
    """The command that measures a page."""
    return [
        str(program), url, "--quiet", "--output=json", f"--output-path={target}",
        "--only-categories=" + ",".join(CATEGORIES), "--max-wait-for-load=60000",
        "--chrome-flags=--headless=new --no-sandbox --disable-gpu",
        *(["--preset=desktop"] if form == "desktop" else []),
    ]  # fmt: skip


def read(report: dict[str, Any], page: str, form: str) -> Measured:
    """The scores and counts of Lighthouse's report.

    Raises:
        Failed: the page was not measured.
    """
    if report.get("runtimeError"):
        raise Failed(f"{page}: {report['runtimeError'].get('message', 'it was not measured')}")
    audits, categories = report["audits"], report["categories"]
    missing = [name for name in CATEGORIES if categories[name]["score"] is None]
    if missing:
        raise Failed(f"{page}: no score for {', '.join(missing)}")

    def value(name: str) -> float:
        return float(audits.get(name, {}).get("numericValue") or 0)

    requests = audits.get("network-requests", {}).get("details", {}).get("items", [])
    return Measured(
        page,
        form,
        {name: round(100 * categories[name]["score"]) for name in CATEGORIES},
        {
            "paint s": round(value("largest-contentful-paint") / 1000, 1),
            "blocked ms": round(value("total-blocking-time")),
            "shift": round(value("cumulative-layout-shift"), 3),
            "KiB": round(value("total-byte-weight") / 1024),
            "requests": len(requests),
            "elements": round(value("dom-size")),
        },
        [
            part["id"]
            for name in CATEGORIES
            for part in categories[name]["auditRefs"]
            if part["weight"] and (audits[part["id"]]["score"] or 0) < 0.9
            and audits[part["id"]]["scoreDisplayMode"] in ("binary", "numeric", "metricSavings")
        ],
    )  # fmt: skip


def measure(site: Path, names: list[str], forms: list[str], folder: Path) -> list[Measured]:
    """Measure pages, each in each form, with a line as each is done."""
    sys.path.append(str(ROOT / "tests"))
    import browser

    chromium = browser.find()
    if chromium is None:
        raise Failed(browser.MISSING.partition("\n")[0])
    program = installed(folder)
    environment = {**os.environ, "CHROME_PATH": chromium}
    found = []
    with served(site) as address:
        for name in names:
            for form in forms:
                target = folder / "report.json"
                target.unlink(missing_ok=True)
                done = subprocess.run(
                    command(program, address + name, form, target),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                )
                if not target.is_file():
                    raise Failed(f"{name}: Lighthouse wrote no report\n{done.stderr[-2000:]}")
                one = read(json.loads(target.read_text(encoding="utf8")), name, form)
                found.append(one)
                said = " ".join(map(str, one.scores.values()))
                print(f"{name} {form}: {said} {', '.join(one.audits)}".rstrip(), flush=True)
    return found


def table(found: list[Measured]) -> str:
    """The measurements as a table in Markdown, a missed goal in bold."""
    counts = list(found[0].counts) if found else []
    lines = [
        f"| page | form | {' | '.join((*CATEGORIES, *counts))} | what costs points |",
        "|---|---|" + "---:|" * (len(CATEGORIES) + len(counts)) + "---|",
    ]
    for one in found:
        missed = one.missed()
        cells = [
            f"**{value}**" if name in missed else str(value)
            for name, value in {**one.scores, **one.counts}.items()
        ]
        lines.append(f"| {one.page} | {one.form} | {' | '.join(cells)} | {', '.join(one.audits)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the rendered pages with Lighthouse.")
    parser.add_argument("pages", nargs="*", help="such as chapters/12-discretization.html; or all")
    parser.add_argument("--forms", nargs="+", choices=tuple(GOALS), default=list(GOALS))
    parser.add_argument("--build", type=Path, default=ROOT / "_build")
    options = parser.parse_args()
    site = options.build / "html"
    there = pages(site)
    names = options.pages or there
    missing = [name for name in names if name not in there]
    started = time.monotonic()
    try:
        if missing or not names:
            raise Failed(f"{', '.join(missing) or 'the book'}: not rendered, run `make book` first")
        found = measure(site, names, options.forms, options.build / "lighthouse")
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    target = options.build / "lighthouse.md"
    target.write_text(table(found), encoding="utf8")
    missed = [one for one in found if one.missed()]
    print(f"{target}: {len(found)} measurements in {time.monotonic() - started:.0f} s, "
          f"{len(missed)} of them miss a goal")  # fmt: skip
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

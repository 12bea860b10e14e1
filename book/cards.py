"""Draw the card of every page, which others show where the page is shared: 1200 × 630 pixels.

    python book/cards.py

A card has the page's title beside its first drawing. Chromium draws it; where there is none, all
pages share the plain card of book/_static, and the build says so. A card is drawn again only
where its page's title or drawing changed.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1200, "height": 630}
LOGO, PLAIN = ROOT / "book" / "_static" / "logo.svg", ROOT / "book" / "_static" / "card.png"
DRAWING = re.compile(r'<svg\b[^>]*\bclass="lt-drawing"[^>]*>.*?</svg>', re.DOTALL)
STYLE = """
* { box-sizing: border-box; margin: 0; }
body { width: 1200px; height: 630px; padding: 56px; display: flex; gap: 48px; background: #fff;
  color: #14181e; font-family: system-ui, 'DejaVu Sans', sans-serif; align-items: center;
  --pst-color-background: #fff; }
.words { flex: 1 1 0; height: 100%; display: flex; flex-direction: column;
  justify-content: space-between; }
h1 { font-size: 60px; line-height: 1.15; overflow-wrap: break-word; }
.number { color: #1565d8; font-size: 40px; font-weight: 700; }
.book { display: flex; gap: 16px; align-items: center; font-size: 30px; color: #48566b; }
.book svg { width: 48px; height: 48px; }
.drawing { flex: 0 0 580px; height: 518px; display: flex; align-items: center; }
.drawing svg { width: 100%; height: 100%; }
"""


def chromium() -> str | None:
    """A browser's program, where the checks of the site find one."""
    sys.path.append(str(ROOT / "tests"))
    import browser

    return browser.find()


def card(title: str, drawing: str, logo: str) -> str:
    """A card as HTML."""
    number, dot, words = title.rpartition(" · ")
    above = f'<p class="number">{html.escape(number)}</p>' if dot else ""
    beside = f'<div class="drawing">{drawing}</div>' if drawing else ""
    return (
        f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style><div class="words">'
        f"<div>{above}<h1>{html.escape(words)}</h1></div>"
        f'<p class="book">{logo}Linear Time</p></div>{beside}'
    )


def cards_of(site: Path) -> dict[str, str]:
    """Name of a page -> its card as HTML, for the pages whose heads name one."""
    logo = LOGO.read_text(encoding="utf8")
    found = {}
    for path in sorted([*site.glob("book/**/*.html"), *site.glob("chapters/*.html")]):
        page = path.read_text(encoding="utf8")  # long, and parsed where it matters alone
        image = re.search(r'<meta[^>]*property="og:image"[^>]*>', page)
        heading = re.search(r"<h1[^>]*>(.*?)(?:<a class=\"headerlink|</h1>)", page, re.DOTALL)
        if image is None or heading is None or f"/{path.stem}.png" not in image[0]:
            continue
        title = " ".join(BeautifulSoup(heading[1], "html.parser").get_text(" ").split())
        drawing = DRAWING.search(page)
        found[path.stem] = card(title, drawing[0] if drawing else "", logo)
    return found


def build(site: Path) -> None:
    """Draw the cards that are missing or have changed, and remove those of pages that are gone."""
    folder, noted = site / "_static" / "cards", site.parent / ".cards.json"
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(noted.read_text(encoding="utf8")) if noted.is_file() else {}
    cards = cards_of(site)
    program = chromium()
    digests = {
        name: hashlib.sha256((text if program else "plain").encode()).hexdigest()
        for name, text in cards.items()
    }
    for path in folder.glob("*.png"):
        if path.stem not in cards:
            path.unlink()
    missing = [
        name
        for name in cards
        if before.get(name) != digests[name] or not (folder / f"{name}.png").is_file()
    ]
    noted.unlink(missing_ok=True)  # until all are there
    if program is None:
        print("No Chromium: the pages share one plain card", flush=True)
        for name in missing:
            shutil.copy(PLAIN, folder / f"{name}.png")
    elif missing:
        draw({folder / f"{name}.png": cards[name] for name in missing}, program)
        print(f"Drew {len(missing)} card(s)", flush=True)
    noted.write_text(json.dumps(digests), encoding="utf8")


def draw(cards: dict[Path, str], program: str) -> None:
    """Let the browser draw each card to its file."""
    from playwright.sync_api import ViewportSize, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        size: ViewportSize = SIZE  # type: ignore[assignment]
        page: Any = browser.new_page(viewport=size, color_scheme="light")
        for path, text in cards.items():
            page.set_content(text)
            page.screenshot(path=str(path))
        browser.close()


if __name__ == "__main__":
    build(ROOT / "_build" / "html")

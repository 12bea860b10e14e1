"""The cards of the pages: which are drawn, of what, and what is done without a browser."""

import json
import sys
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup

from book import ROOT, AtOnce, load


@pytest.fixture
def cards(tmp_path, monkeypatch):
    made = load(ROOT / "book" / "cards.py")
    (tmp_path / "logo.svg").write_text("<svg>logo</svg>", encoding="utf8")
    (tmp_path / "plain.png").write_bytes(b"plain")
    monkeypatch.setattr(made, "LOGO", tmp_path / "logo.svg")
    monkeypatch.setattr(made, "PLAIN", tmp_path / "plain.png")
    made.drawn = []

    def draw(given, program):
        made.drawn.append((sorted(path.stem for path in given), program))
        for path, text in given.items():
            path.write_text(text, encoding="utf8")

    monkeypatch.setattr(made, "draw", draw)
    monkeypatch.setattr(made, "chromium", lambda: "a browser")
    return made


@pytest.mark.parametrize(
    ("title", "number", "heading"),
    [
        ("12 · A <b>", "12", "A <b>"), ("Preface", None, "Preface"),
        ("Part & II · 3 · Gates", "Part & II · 3", "Gates"), (" · Odd", "", "Odd"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("drawing", ["", "<svg>drawn</svg>"])
def test_a_card_has_its_title_beside_its_drawing(cards, title, number, heading, drawing):
    page = BeautifulSoup(cards.card(title, drawing, "<svg>logo</svg>"), "html.parser")
    above = page.select_one(".words p.number")
    assert (above.get_text() if above else None) == number
    assert page.select_one(".words h1").get_text() == heading
    assert page.select_one("p.book").get_text() == "logoLinear Time"
    assert [box.get_text() for box in page.select(".drawing")] == ["drawn"] * bool(drawing)
    assert cards.STYLE in page.style.string


def write(site, name, title="12 · A", body="", card=None):
    path = site / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = path.stem if card is None else card
    path.write_text(
        f'<head><meta content="https://b.org/_static/cards/{picture}.png" property="og:image" />'
        f'</head><h1 id="a">{title}<a class="headerlink">#</a></h1>{body}',
        encoding="utf8",
    )


def test_pages_whose_heads_name_a_card_have_one(cards, tmp_path):
    drawing = '<svg id="{}" class="lt-drawing" width="1">\n<g/></svg>'
    both = f"<svg>other</svg>{drawing.format('first')}{drawing.format('second')}"
    write(tmp_path, "chapters/12-a", "12 · <em>A</em>\n  long  &amp; one", both)
    write(tmp_path, "book/api/deep")
    write(tmp_path, "book/other", card="another")
    write(tmp_path, "elsewhere/x")
    write(tmp_path, "chapters/deep/y")
    (tmp_path / "chapters" / "none.html").write_text("<h1>None</h1>", encoding="utf8")
    meta = '<meta property="og:image" content="/untitled.png">'
    (tmp_path / "book" / "untitled.html").write_text(f"{meta}<h2>x</h2>", encoding="utf8")
    short = '<meta property="og:image" content="/short.png"><h1>Short</h1>'
    (tmp_path / "book" / "short.html").write_text(short, encoding="utf8")
    found = cards.cards_of(tmp_path)
    assert found == {
        "deep": cards.card("12 · A", "", "<svg>logo</svg>"),
        "short": cards.card("Short", "", "<svg>logo</svg>"),
        "12-a": cards.card("12 · A long & one", drawing.format("first"), "<svg>logo</svg>"),
    }


def test_a_card_is_drawn_again_where_its_page_changed(cards, tmp_path, capsys, monkeypatch):
    site = tmp_path / "html"
    folder = site / "_static" / "cards"
    for name in ("a", "b", "c"):
        write(site, f"book/{name}", title=name)

    def built():
        cards.drawn.clear()
        cards.build(site)
        noted = json.loads((tmp_path / ".cards.json").read_text(encoding="utf8"))
        assert set(noted) == {path.stem for path in folder.glob("*.png")}
        return capsys.readouterr().out

    assert built() == "Drew 3 card(s)\n" and cards.drawn == [(["a", "b", "c"], "a browser")]
    assert built() == "" and cards.drawn == []
    write(site, "book/b", title="another")
    (folder / "c.png").unlink()
    assert built() == "Drew 2 card(s)\n" and cards.drawn == [(["b", "c"], "a browser")]
    assert "another" in (folder / "b.png").read_text(encoding="utf8")
    (site / "book" / "a.html").unlink()
    assert built() == "" and not (folder / "a.png").exists()
    monkeypatch.setattr(cards, "chromium", lambda: None)
    assert built() == "No Chromium: the pages share one plain card\n" and cards.drawn == []
    assert (folder / "b.png").read_bytes() == b"plain"
    monkeypatch.setattr(cards, "chromium", lambda: "a browser")
    assert built() == "Drew 2 card(s)\n" and (folder / "b.png").read_bytes() != b"plain"


@pytest.mark.parametrize("program", ["a browser", None])
def test_it_is_said_at_once_what_is_drawn(cards, tmp_path, monkeypatch, program):
    write(tmp_path / "html", "book/a")
    monkeypatch.setattr(cards, "chromium", lambda: program)
    monkeypatch.setattr(sys, "stdout", out := AtOnce())
    cards.build(tmp_path / "html")
    assert out.all_seen()


def test_what_a_killed_drawing_left_is_drawn_again(cards, tmp_path, monkeypatch):
    site = tmp_path / "html"
    write(site, "book/a")
    cards.build(site)
    write(site, "book/a", title="another")
    draw = cards.draw
    monkeypatch.setattr(cards, "draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cards.build(site)
    assert not (tmp_path / ".cards.json").exists()
    write(site, "book/a")  # as it was: its old card is no longer trusted
    monkeypatch.setattr(cards, "draw", draw)
    cards.drawn.clear()
    cards.build(site)
    assert cards.drawn == [(["a"], "a browser")]


def test_the_browser_draws_each_card_in_its_size(tmp_path, monkeypatch):
    cards = load(ROOT / "book" / "cards.py")
    done = []

    class Page:
        def set_content(self, text):
            done.append(text)

        def screenshot(self, path):
            done.append(path)

    class Playing:
        def __enter__(self):
            chrome = SimpleNamespace(new_page=self.page, close=lambda: done.append("closed"))
            launch = lambda **given: done.append(given) or chrome  # noqa: E731
            return SimpleNamespace(chromium=SimpleNamespace(launch=launch))

        def page(self, **given):
            done.append(given)
            return Page()

        def __exit__(self, *_):
            done.append("ended")

    from playwright import sync_api

    monkeypatch.setattr(sync_api, "sync_playwright", Playing)
    cards.draw({tmp_path / "a.png": "one", tmp_path / "b.png": "two"}, "program")
    assert done == [
        {"executable_path": "program", "args": ["--no-sandbox"]},
        {"viewport": {"width": 1200, "height": 630}, "color_scheme": "light"},
        "one", str(tmp_path / "a.png"), "two", str(tmp_path / "b.png"), "closed", "ended",
    ]  # fmt: skip
    monkeypatch.setitem(sys.modules, "browser", SimpleNamespace(find=lambda: "found"))
    assert cards.chromium() == "found"
    assert all(path.is_file() for path in (cards.LOGO, cards.PLAIN))

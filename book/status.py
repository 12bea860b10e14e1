"""What the last `make test` said, on the page of the build's status.

A build writes it into the finished page: a test that has ended since the pages were rendered is no
reason to render them again.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

PLACE = re.compile(r'(<div class="lt-last-tests[^>]*>).*?(</div>)', re.DOTALL)
NAME = '<code class="docutils literal notranslate"><span class="pre">{}</span></code>'
RUN = NAME.format("make test")


def last_tests(root: Path) -> list[tuple[str, str]]:
    """The steps of the last `make test` of this checkout, and what each said at its end."""
    said = []
    for step in ("unit", "nbval", "site"):
        log = root / "_build" / "logs" / f"{step}.log"
        lines = log.read_text(encoding="utf8").split("\n") if log.is_file() else []
        ends = [line.strip("= ") for line in lines if re.match(r"=+ .*\d+ (passed|failed)", line)]
        if ends:
            said.append((step, ends[-1]))
    return said


def words(said: list[tuple[str, str]]) -> str:
    """What the page says, as HTML."""
    if not said:
        return f"<p>No {RUN} ended in this checkout before this build.</p>"
    items = [f"<li><p>{NAME.format(step)}: {html.escape(end)}</p></li>" for step, end in said]
    head = f"<p>The last {RUN} in this checkout, before this build, ended so:</p>"
    return f'{head}\n<ul class="simple">{"".join(items)}</ul>'


def tell(root: Path, site: Path) -> None:
    """Write it into the site's page.

    Raises:
        ValueError: the page has no place for it.
    """
    page = site / "book" / "status.html"
    text = page.read_text(encoding="utf8")
    if len(PLACE.findall(text)) != 1:
        raise ValueError("status.html: expected one place for the last `make test`")
    said = words(last_tests(root))
    page.write_text(PLACE.sub(lambda m: f"{m[1]}\n{said}\n{m[2]}", text), encoding="utf8")

"""The book's own Sphinx extension: what the stock tools leave undone, in one place."""

from __future__ import annotations

import copy
import functools
import gc
import os
import pkgutil
import re
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pybtex.plugin
from docutils import nodes
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.parallel import make_chunks
from sphinx_proof.domain import ProofDomain


def side_by_side(app: Sphinx) -> None:
    """Let Sphinx read and write pages in several processes, one more than it may keep busy.

    While pages are written its own resolves the next ones. On a Mac a process should not go on as
    a copy of one that has computed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    app.parallel = min(cores, 4) + 1 if cores > 1 else 1


def look_up_once(app: Sphinx) -> None:
    """Leave out what is done again and again: it takes a fifth of the time.

    A page is a great many small objects, of which hardly one is garbage while it is worked at. And
    what a citation looks like is asked of the lists of all installed packages.
    """
    gc.set_threshold(100_000, 20, 20)
    pybtex.plugin._load_entry_point = functools.cache(pybtex.plugin._load_entry_point)


def say_safe(app: Sphinx) -> None:
    """What keeps pages from being read side by side, though nothing of it is shared between them.

    Two extensions do not say so, and sphinx_proof, which keeps its theorems elsewhere, does not say
    that nothing of its domain is to be put together.
    """
    for name in ("sphinx_jupyterbook_latex", "sphinx_multitoc_numbering"):
        if name in app.extensions:
            app.extensions[name].parallel_read_safe = True
    ProofDomain.merge_domaindata = lambda domain, docnames, others: None


def share_out(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Spread the long pages over the processes that read: Sphinx hands them out by their names.

    What pages of the API show is imported before that, all of it: a module may join a function of
    another, whose page would then depend on what was read before.
    """
    if any(name.startswith("book/api") for name in docnames):
        package = import_module("linear_time")
        for module in pkgutil.walk_packages(package.__path__, "linear_time."):
            import_module(module.name)
    gc.freeze()  # what is there is not looked through in each of the processes
    parts = make_chunks(docnames, app.parallel)
    shared: list[list[str]] = [[] for _ in parts]
    for name in sorted(docnames, key=lambda name: (-Path(env.doc2path(name)).stat().st_size, name)):
        emptiest = min(range(len(parts)), key=lambda at: len(shared[at]) / len(parts[at]))
        shared[emptiest].append(name)
    docnames[:] = [name for part in shared for name in part]


def one_document(app: Sphinx, doctree: nodes.document) -> None:
    """Let every node of a page know the page as its document.

    Those of a part in reStructuredText, as pages of the API are, know one of their own, which knows
    all that was read by then: Sphinx would write that into the file of each such page, megabytes,
    and read it from there several times.
    """
    for node in doctree.findall():
        node.document = doctree


def site_address(app: Sphinx, config: Config) -> None:
    """The site's address follows from `repository.url`, unless `html.baseurl` gives another."""
    if not config.html_baseurl:
        owner, _, name = (
            urlsplit(config.html_theme_options["repository_url"]).path.strip("/").partition("/")
        )
        config.html_baseurl = f"https://{owner}.github.io/{name}/"
    config.ogp_site_url = config.html_baseurl


def outdated_chapters(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> Iterator[str]:
    """Chapters that were executed again since their page was read.

    Sphinx looks at the notebook's time stamp alone, and would serve the old outputs after a
    change in `src`.
    """
    cache = get_cache(env.mystnb_config.execution_cache_path)
    for docname in env.found_docs - added - changed:
        path = Path(env.doc2path(docname))
        if path.suffix != ".ipynb":
            continue
        read = env.nb_metadata.get(docname, {}).get("exec_data", {}).get("mtime")
        try:
            executed = cache.match_cache_notebook(
                nbformat.read(path, nbformat.NO_CONVERT)
            ).created.timestamp()
        except KeyError:
            executed = None
        if read is None or read != executed:
            yield docname


def restore_numbers(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Give Sphinx its own numbers back, so that it sees which pages changed."""
    env.toc_fignumbers = getattr(env, "plain_fignumbers", env.toc_fignumbers)
    return []


def number_by_chapter(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Number figures, equations and theorems by page, the chapter's number before them: 12.3."""
    env.plain_fignumbers = copy.deepcopy(env.toc_fignumbers)
    for docname, types in env.toc_fignumbers.items():
        chapter = re.match(r"chapters/(\d+)-", docname)
        prefix = (int(chapter[1]),) if chapter else ()
        for numbers in types.values():
            for n, label in enumerate(sorted(numbers, key=numbers.__getitem__), 1):
                numbers[label] = (*prefix, n)
    return []


def note_reading(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Remember whether this build reads any page."""
    env.reads_pages = bool(docnames)


def write_all_after_reading(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Where one page changed, write all.

    Pages show one another's titles and numbers, and the sitemap lists what was written.
    """
    return sorted(env.found_docs) if env.reads_pages else []


def mend_page(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Mend what the theme leaves on a page.

    Thebe, which the book does not use, is declared twice on every page and names another host.
    Inline mathematics stays on one line with the punctuation after it, and a long name in code
    breaks after its underscores.
    """
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{script} {script.attributes.get('body', '')}"
    ]
    context["body"] = re.sub(
        r"\s*<script type=\"text/x-thebe-config\">.*?</script>|<script>kernelName = .*?</script>",
        "",
        context.get("body", ""),
        flags=re.DOTALL,
    )
    if pagename.startswith("chapters/"):
        tests = f"{app.config.html_theme_options['repository_url']}/blob/main/tests"
        context["body"] = name_tests_by_file(context["body"], tests)
    # Inline mathematics is a box, and a line may break between it and a comma.
    context["body"] = re.sub(
        r"\(?<span class=\"math notranslate nohighlight\">"
        r"(<math>(?:(?!</math>).)*</math>)</span>[,.;:!?)’]+",
        lambda found: f'<span class="unbroken{" short" * is_short(found[1])}">{found[0]}</span>',
        context["body"],
    )
    context["body"] = re.sub(
        r"(?<=<span class=\"pre\">)[^<]+",
        lambda name: re.sub(r"(?<=::|\w_|\w/)(?=\w)", "<wbr/>", name[0]),
        context["body"],
    )


def is_short(equation: str) -> bool:
    """Whether an inline equation fits a telephone's line."""
    return len(re.sub(r"<annotation.*?</annotation>|<[^>]*>", "", equation)) < 16


def name_tests_by_file(body: str, tests: str) -> str:
    """In a chapter's text a test is its file, a link; its own long name is the link's title."""
    return re.sub(
        r"<code class=\"docutils literal notranslate\"><span class=\"pre\">"
        r"((test_\w+\.py)::\w+)</span></code>",
        rf'<a class="test" href="{tests}/\2" title="\1"><code>\2</code></a>',
        body,
    )


def mend_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Read plain docstrings as reStructuredText.

    |λ| names no substitution, and a hanging indent makes no definition list.
    """
    if lines and re.fullmatch(
        r"Alias for field number \d+", lines[0]
    ):  # Python's own words, for a named tuple
        lines.clear()
    mended: list[str] = []
    for line in lines:
        parts = re.split(r"(``.*?``)", line)
        line = "".join(
            part if part.startswith("``") else part.replace("|", "\\|") for part in parts
        )
        before = mended[-1] if mended else ""
        if (
            line.startswith(" ")
            and before.strip()
            and not before.startswith(" ")
            and not before.endswith(":")
        ):
            mended[-1] = f"{before.rstrip()} {line.strip()}"
        else:
            mended.append(line)
    lines[:] = mended


def remove_old_pages(app: Sphinx, error: Exception | None) -> None:
    """A chapter that was renamed or taken out of the contents leaves the site too.

    The decks of slides are made, and removed, after the pages.
    """
    if error or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        docname = page.relative_to(app.outdir).with_suffix("").as_posix()
        folder = page.relative_to(app.outdir).parts[0]
        own = "/" in docname and folder not in ("_static", "slides")
        if own and docname not in app.env.found_docs:
            page.unlink()


def setup(app: Sphinx) -> dict[str, bool | int]:
    side_by_side(app)
    look_up_once(app)
    app.connect("config-inited", site_address, priority=100)
    app.connect("builder-inited", say_safe)
    app.connect("env-get-outdated", outdated_chapters)
    app.connect("env-get-updated", restore_numbers, priority=100)
    app.connect("env-get-updated", number_by_chapter, priority=900)
    app.connect("env-before-read-docs", note_reading)
    app.connect("env-before-read-docs", share_out)
    app.connect("env-get-updated", write_all_after_reading)
    app.connect("doctree-read", one_document, priority=900)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("autodoc-process-docstring", mend_docstring, priority=400)  # before napoleon
    app.connect("build-finished", remove_old_pages)
    version = zlib.crc32(Path(__file__).read_bytes())  # a change here reads every page again
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

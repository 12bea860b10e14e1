"""The book's paths: their pages exist, and no chapter is reached before what it builds on."""

import re

import pytest

from book import ROOT, load
from linear_time.pictures import teaching
from linear_time.pictures.home import PAGES, PATHS, paths_drawing

course = load(ROOT / "book" / "course.py")


def builds_on(number: str) -> frozenset[str]:
    """The earlier chapters that a chapter's own line names."""
    return course.chapter(number).builds_on


def missing(chapters, borrowed, needs) -> list[str]:
    """What a path's reader meets without having read, or been lent, what it builds on."""
    return [
        f"{number} builds on {other}"
        for place, number in enumerate(chapters)
        for other in sorted(needs(number))
        if other not in chapters[:place] and other not in borrowed
    ]


def test_the_map_has_every_chapter():
    assert {number: f"{number}-{topic}" for number, topic in PAGES.items()} == course.stems()


@pytest.mark.parametrize("name", PATHS)
def test_a_path_skips_nothing_that_its_chapters_build_on(name):
    path = PATHS[name]
    assert missing(path.chapters, path.borrowed, builds_on) == []


def test_a_skipped_chapter_is_found():
    needs = {"12": {"11"}, "13": {"12", "00"}}.__getitem__
    assert missing(("12", "13"), {}, needs) == ["12 builds on 11", "13 builds on 00"]
    assert missing(("12", "13"), {"00": "one section"}, needs) == ["12 builds on 11"]


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_borrowed_that_no_chapter_needs(name):
    path = PATHS[name]
    needed = set().union(*(builds_on(number) for number in path.chapters))
    assert set(path.borrowed) <= needed
    assert not set(path.borrowed) & set(path.chapters)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_begins_with_a_page_that_says_what_to_borrow(name):
    path = PATHS[name]
    page = (ROOT / "book" / f"{path.glance}.ipynb").read_text(encoding="utf8")
    numbers = re.findall(r"\.\./chapters/(\d\d)-", page)
    assert set(path.borrowed) | set(path.chapters) <= set(numbers) or name == "whole"


def test_every_box_of_the_map_leads_to_a_page():
    links = re.findall(r'<a href="([^"]+)\.html">', paths_drawing().svg())
    assert len(links) == sum(1 + len(path.chapters) for path in PATHS.values())
    for link in links:
        assert (ROOT / "book" / f"{link}.ipynb").resolve().is_file(), link


def test_the_map_of_dependencies_is_that_of_the_chapters():
    said = {number: course.chapter(number).builds_on for number in course.stems()}
    assert {number: set(others) for number, others in teaching.BUILDS_ON.items()} == said
    assert teaching.PLACES.keys() == said.keys()


def test_arrows_left_out_of_the_map_follow_from_those_drawn():
    for number in teaching.BUILDS_ON:
        reached = {number}
        waiting = [number]
        while waiting:
            for other in teaching.drawn(waiting.pop()):
                if other not in reached:
                    reached.add(other)
                    waiting.append(other)
        assert reached - {number} == teaching.needed(number)
    svg = teaching.dependencies_drawing().svg()
    assert svg.count('z" fill=') == sum(len(teaching.drawn(n)) for n in teaching.BUILDS_ON)

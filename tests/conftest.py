"""What tests share: one thread, repeatable hypothesis, the switch of the shape check, a browser."""

import os
from collections.abc import Generator, Iterator

import jaxtyping
import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

import browser

torch.set_num_threads(1)  # many small operations: a second thread only adds waiting

settings.register_profile("linear_time", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("linear_time")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Tests marked bad_input meet the library's own message, so the runtime shape check is off."""
    before = jaxtyping.config.jaxtyping_disable
    if item.get_closest_marker("bad_input"):
        jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser; without one its checks are skipped, loudly, and fail under CI=true."""
    program = browser.find()
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(browser.MISSING)
    with sync_playwright() as playwright:
        # A sandbox cannot be made by root or inside most containers; the pages are the book's own.
        chrome = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chrome
        chrome.close()

"""What every test shares: one thread, repeatable hypothesis, and the switch of the shape check."""

from collections.abc import Generator

import jaxtyping
import pytest
import torch
from hypothesis import settings

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

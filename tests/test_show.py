"""The source on a page is the library's."""

import inspect

import pytest

from linear_time import figures
from linear_time.show import Source, show


def test_show_is_the_source():
    shown = show(figures.label)
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == "<source of linear_time.figures.label>"
    assert bundle["text/markdown"] == f"```python\n{inspect.getsource(figures.label).rstrip()}\n```"


def test_show_takes_a_class():
    assert "class Source" in show(Source)._repr_mimebundle_()["text/markdown"]


@pytest.mark.bad_input
@pytest.mark.parametrize("foreign", [inspect.getsource, 3, "text"])
def test_show_refuses_what_is_not_the_librarys(foreign):
    with pytest.raises(TypeError, match="obj: expected a function or class of linear_time"):
        show(foreign)

"""Show the library's own code on a page (used by every chapter)."""

import inspect
from typing import Any


class Source:
    """The source of a function or class of ``linear_time``, for display.

    Args:
        obj: what to show.

    Raises:
        TypeError: the object is not from ``linear_time``. A page shows the
            library's code, never a copy of it.
    """

    def __init__(self, obj: Any) -> None:
        obj = inspect.unwrap(obj)
        module = getattr(obj, "__module__", None) or ""
        if module.split(".")[0] != "linear_time":
            raise TypeError(
                f"obj: expected a function or class of linear_time, got {obj!r}"
            )
        self.name = f"{module}.{obj.__qualname__}"
        self.code = inspect.getsource(obj).rstrip()

    def __repr__(self) -> str:
        return f"<source of {self.name}>"

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> dict[str, str]:
        return {
            "text/plain": repr(self),
            "text/markdown": f"```python\n{self.code}\n```",
        }


def show(obj: Any) -> Source:
    """Display the source of a library function or class; end a cell with it."""
    return Source(obj)

"""Why some mutants live: a piece of the changed line, and the reason."""

from typing import Any

#: (file, a piece of the line as it is, a piece of it as it becomes) → why no test sees it
REASONS: dict[tuple[str, str, str], str] = {}


def reason(row: dict[str, Any]) -> str | None:
    """Of a row of results; None where nobody has looked at it."""
    for (file, old, new), why in REASONS.items():
        if row["file"].endswith(file) and old in row["old"] and new in row["new"]:
            return why
    return None

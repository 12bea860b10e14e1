"""Bugs of the library that were made, or nearly made."""

MUTANTS: list[tuple[str, str, str, str]] = []

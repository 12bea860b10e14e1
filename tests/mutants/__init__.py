"""Mutants written by hand: file, the text that is there once, what it becomes, and why."""

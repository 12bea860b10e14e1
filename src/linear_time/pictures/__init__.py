"""The chapters' own drawings and explorers, one module a chapter.

A drawing is made with :mod:`linear_time.drawing`, an explorer with
:mod:`linear_time.explorer`. They stand here, not in the notebooks, so that two
pages can show the same picture, tests can look at each, and a chapter's cell
is one line.
"""

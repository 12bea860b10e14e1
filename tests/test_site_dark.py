"""The rendered site for a reader whose pages are dark: what `test_site.py` asks of light ones."""

import pytest

from test_site import (
    address,
    test_code_fits_a_wide_page,
    test_drawings_are_legible,
    test_every_equation_is_drawn,
    test_every_image_has_a_sentence_beside_it,
    test_no_console_error,
    test_no_page_is_wider_than_its_window,
    test_no_raw_markup,
    test_no_request_leaves_for_another_host,
    test_the_page_follows_the_reader_s_scheme,
    visits,
)

__all__ = [
    "address",
    "test_code_fits_a_wide_page",
    "test_drawings_are_legible",
    "test_every_equation_is_drawn",
    "test_every_image_has_a_sentence_beside_it",
    "test_no_console_error",
    "test_no_page_is_wider_than_its_window",
    "test_no_raw_markup",
    "test_no_request_leaves_for_another_host",
    "test_the_page_follows_the_reader_s_scheme",
    "visits",
]
SCHEME = "dark"
pytestmark = [pytest.mark.site, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

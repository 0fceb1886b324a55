"""The tests of public/ drive a browser."""

from tests.browser import browser, page

__all__ = ["browser", "page"]

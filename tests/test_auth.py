"""Secrets: what opens a door, and what never does."""

import pytest
from starlette.datastructures import Headers

from auth import Unauthorized, bearer, is_secret, require_bearer


@pytest.mark.parametrize(
    ("given", "secret", "opens"),
    [
        ("a", "a", True),
        ("new", "new,old", True),
        ("old", "new,old", True),
        ("new,old", "new,old", False),
        ("", "", False),
        (None, None, False),
        ("None", None, False),
        ("a", None, False),
        (None, "a", False),
        ("", "a", False),
        ("A", "a", False),
        ("aa", "a", False),
        ("é".encode().decode("latin-1"), "é", True),
        ("é", "é", False),
        ("\ud83d", "a", False),
    ],
)
def test_only_the_secret_itself_opens(given: str | None, secret: str | None, opens: bool):
    assert is_secret(given, secret) is opens


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer a", "a"), ("bearer a", "a"), ("Bearer  a ", "a"), ("Basic a", None), ("a", None), ("Bearer", "")],
)
def test_a_bearer_token_is_read_whatever_the_case_of_its_scheme(header: str, token: str | None):
    assert bearer(Headers({"authorization": header})) == token


def test_a_request_without_the_header_is_not_let_in():
    with pytest.raises(Unauthorized):
        require_bearer(Headers({}), "a")

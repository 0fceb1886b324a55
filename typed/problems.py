"""What does not fit a type, in the words of a `BadRequest`: the field as it was sent, and what it must be.

The words come from the JSON schema, so that a client reads the same in the answer and in openapi.json. Neither a value
nor a link of pydantic's is repeated.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from typed.schemas import Schema, below, words

MOST = 20  # problems in an answer
TOO_MANY = 1_000  # more than these are not even listed: 300,000 of them took 0.4 s
LONGEST = 100  # characters of a key that the client made

# What says no more than that a value is not what the schema says; other errors have words of their own.
PLAIN = re.compile(
    r".*_type|.*_parsing|.*_parsing_size|.*too_short|.*too_long|literal_error|enum|string_pattern_mismatch"
    r"|greater_than.*|less_than.*|multiple_of|finite_number|int_from_float|model_attributes_type|datetime_from_date.*"
)


def problems_of(exc: ValidationError, root: str, value: Any, schema: Schema) -> list[tuple[str, str]]:
    """List the fields of a value that are wrong, each once. ``root`` is what the whole value is called."""
    count = exc.error_count()
    if count > TOO_MANY:
        return [(root, f"has {count} problems, too many to list")]
    found: dict[str, str] = {}
    for error in exc.errors(include_url=False, include_input=False):
        path, last = _path(error, value)
        schemas: list[Schema] = [schema]
        for key in path:
            schemas = below(schemas, key, schema)
        field = ".".join(str(key)[:LONGEST] for key in path) or root
        expected = words(schemas, schema)
        if root == "query":  # text is never null
            expected = expected.removesuffix(" or null")
        message = _message(error, expected, last)
        if field in found and message not in found[field].split(", or "):
            message = f"{found[field]}, or {message}"
        found[field] = message
    listed = list(found.items())
    if len(listed) > MOST:
        listed[MOST:] = [(root, f"has {len(listed) - MOST} more problems")]
    return listed


def _path(error: ErrorDetails, value: Any) -> tuple[list[str | int], bool]:
    """Where an error is in a value, without the names of a union's branches; and whether it is about a key."""
    path: list[str | int] = []
    loc = error["loc"]
    for i, key in enumerate(loc):
        if isinstance(value, Mapping) and key in value:
            value = cast("Mapping[Any, Any]", value)[key]
        elif isinstance(value, list) and isinstance(key, int) and key < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[key]
        elif i < len(loc) - 1 or error["type"] != "missing":
            continue
        path.append(key)
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"].startswith("union_tag_"):
        path.append(str(context["discriminator"]).strip("'"))
    return path, bool(loc) and loc[-1] == "[key]"


def _message(error: ErrorDetails, expected: str, is_key: bool) -> str:
    kind = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    if kind in ("missing", "union_tag_not_found"):
        return f"is required: {expected}" if expected else "is required"
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind == "union_tag_invalid":
        return f"must be one of {context['expected_tags']}".replace("'", '"')
    if kind in ("value_error", "assertion_error") and "error" in context:
        return str(context["error"]) or "is not valid"  # the words of the type's own author
    if kind == "recursion_loop":
        return "is nested too deeply"
    if is_key:
        return "has a key that is not valid"
    if expected and PLAIN.fullmatch(kind):
        return f"must be {expected}"
    text = error["msg"].replace("Input should", "must").replace("Value error, ", "")
    return text[:1].lower() + text[1:]

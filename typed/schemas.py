"""JSON Schema, as far as messages and readers need it: what a place in a value may hold, and that in words."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

Schema = Mapping[str, Any]

FORMATS = {
    "date": "a date such as 2026-11-26",
    "date-time": "a date and time such as 2026-11-26T08:00:00Z",
    "time": "a time such as 08:00:00Z",
    "duration": "a duration such as PT1H30M",
    "uuid": "a UUID",
    "uri": "a URL",
    "email": "an email address",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
}


def alternatives(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Yield the schemas of which a value must fit one; references are followed, within ``root``."""
    if "$ref" in schema:
        yield from alternatives(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
        return
    several: list[Schema] = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    if not several:
        yield schema
    for one in several:
        yield from alternatives(one, root)


def fields_of(schema: Schema, root: Schema) -> dict[str, Schema]:
    """The named fields of an object, or of each object that it may be."""
    return {name: field for one in alternatives(schema, root) for name, field in one.get("properties", {}).items()}


def below(schemas: Iterable[Schema], key: object, root: Schema) -> list[Schema]:
    """What may stand at one key or index of a value."""
    found: list[Schema] = []
    for one in (one for schema in schemas for one in alternatives(schema, root)):
        if isinstance(key, str):
            here: Any = one.get("properties", {}).get(key, one.get("additionalProperties"))
        else:
            places: list[Any] = one.get("prefixItems", [])
            here = places[key] if isinstance(key, int) and key < len(places) else one.get("items")
        if isinstance(here, Mapping) and all(
            here is not known for known in found
        ):  # else a recursive type doubles them
            found.append(here)  # pyright: ignore[reportUnknownArgumentType] - JSON
    return found


def kinds_of(schema: Schema, root: Schema) -> set[str]:
    """The JSON types that a value may have; an empty set where any will do."""
    found: set[str] = set()
    for one in alternatives(schema, root):
        kinds: Any = one.get("type")
        if kinds is None:
            return set()
        found |= {kinds} if isinstance(kinds, str) else {*kinds}
    return found


TYPED = {"$ref", "anyOf", "oneOf", "allOf", "enum", "const", "type"}


def open_numbers(schema: Schema) -> frozenset[str]:
    """The kinds of numbers that a schema lets through without bounds on both sides; both where it lets anything."""
    found: set[str] = set()
    places: list[Any] = [schema, *schema.get("$defs", {}).values()]
    for place in places:  # grows while it is read
        if not isinstance(place, Mapping) or not TYPED & {*(one := cast("Schema", place))}:
            found |= {"integer", "number"}  # {} or True: anything
            continue
        kinds: Any = one.get("type", ())
        bounded = {"minimum", "exclusiveMinimum"} & {*one} and {"maximum", "exclusiveMaximum"} & {*one}
        if not bounded and not {"enum", "const"} & {*one}:
            found |= {"integer", "number"} & ({kinds} if isinstance(kinds, str) else {*kinds})
        places += [*one.get("properties", {}).values(), *one.get("prefixItems", ())]
        places += [*one.get("anyOf", ()), *one.get("oneOf", ()), *one.get("allOf", ())]
        places += [one[key] for key in ("items", "additionalProperties") if one.get(key) not in (None, False)]
    return frozenset(found)


def without_null(schema: Schema) -> dict[str, Any]:
    """The schema of what comes as text, which cannot be null: it is left out."""
    found = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
    if isinstance(found.get("type"), list):
        found["type"] = next(kind for kind in found["type"] if kind != "null")
    if several := [one for one in found.pop("anyOf", ()) if one != {"type": "null"}]:
        found |= several[0] if len(several) == 1 else {"anyOf": several}
    return found


def words(schemas: Iterable[Schema], root: Schema) -> str:
    """Say what a place may hold: `a string of 1 to 200 characters or null`; empty where anything will do."""
    said = [_words(one) for schema in schemas for one in alternatives(schema, root)]
    return "" if "" in said else " or ".join(dict.fromkeys(said))


def _words(schema: Schema) -> str:
    if "const" in schema or "enum" in schema:
        values: list[Any] = schema.get("enum", [schema.get("const")])
        shown = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
        return f"one of {shown}" if len(values) > 1 else shown
    kind = schema.get("type")
    if kind == "string":
        if "format" in schema:
            return FORMATS.get(schema["format"], f"a string in the format {schema['format']}")
        said = "a non-empty string" if schema.get("minLength") == 1 and "maxLength" not in schema else "a string"
        if said == "a string":
            said += _count(schema.get("minLength"), schema.get("maxLength"), "character")
        return said + (f" that matches {schema['pattern']}" if "pattern" in schema else "")
    if kind in ("integer", "number"):
        said = ("a whole number" if kind == "integer" else "a number") + _range(schema)
        return said + (f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else "")
    if kind == "array":
        return "a list" + _count(schema.get("minItems"), schema.get("maxItems"), "entr")
    if kind == "object":
        return "an object"
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "")


def _range(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    above, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    said = [f"at least {least}"] if least is not None else [f"greater than {above}"] if above is not None else []
    said += [f"at most {most}"] if most is not None else [f"less than {under}"] if under is not None else []
    return (
        " of " * bool(said and said[0].startswith("at"))
        + " " * bool(said and said[0].startswith(("g", "l")))
        + (" and ".join(said))
    )


def _count(least: int | None, most: int | None, unit: str) -> str:
    one, many = ("entry", "entries") if unit == "entr" else (unit, f"{unit}s")
    if least is not None and most is not None and least:
        return f" of {least} to {most} {many}" if least != most else f" of {most} {one if most == 1 else many}"
    if most is not None:
        return f" of at most {most} {one if most == 1 else many}"
    return f" of at least {least} {one if least == 1 else many}" if least else ""

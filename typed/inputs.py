"""Readers of params, query and body: text and JSON become what an annotation says, or 404, 400 and 415.

JSON is read strictly, since it has types of its own: "1" is no number. Text, in a path or a query, has none, and is
converted. Only whole numbers of 64 bits and finite numbers come in: others can be neither stored nor sent on.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar, cast, get_args, get_origin

from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request

from errors import BadRequest
from typed.problems import LONGEST, MOST, problems_of
from typed.schemas import Schema, below, fields_of, kinds_of, open_numbers
from typed.signature import EMPTY, AnyContentType, HandlerError, Taken, shown_type

T = TypeVar("T")

LEAST, GREATEST = -(2**63), 2**64 - 1
PLAIN = (b"content-type", b"application/json")  # as nearly every client sends it
BOM = b"\xef\xbb\xbf"
INTEGER = re.compile(r"-?[0-9]{1,20}")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Schemas(GenerateJsonSchema):
    """pydantic's, without titles that repeat the names, or warnings: a default that JSON does not have is left out."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as the parent has it

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        """In an answer, a field with a default is always there."""
        written = self.mode == "serialization" and field["type"] != "typed-dict-field"
        return "serialization_exclude_if" not in field if written else super().field_is_required(field, total)


class Input:
    """One parameter of a handler: the type that checks it, made ready once."""

    def __init__(self, taken: Taken) -> None:
        self.name = taken.name
        self.default = taken.default
        self.adapter = adapter_of(taken.name, taken.annotation)
        # Annotated[Any, Field(description=...)] describes what is handed in as it came
        self.is_checked = get_origin(taken.annotation) is not Annotated or get_args(taken.annotation)[0] is not Any

    @cached_property
    def schema(self) -> Schema:
        """The JSON schema of what comes in, or {} where the type has none."""
        try:
            return self.adapter.json_schema(schema_generator=Schemas)
        except PydanticUserError:
            return {}


def adapter_of(name: str, annotation: Any) -> TypeAdapter[Any]:
    """Make a type ready to check values. Raises `HandlerError`."""
    try:
        adapter = TypeAdapter[Any](annotation)
        if not adapter.pydantic_complete:
            adapter.rebuild(raise_errors=True)
    except PydanticUndefinedAnnotation as exc:
        problem = f"and {exc.name} is not defined. Define or import it above the type"
    except PydanticUserError as exc:
        problem = "which pydantic cannot read: " + exc.message.partition("\n")[0].rstrip(".").replace("`", "'")
        if exc.code == "typed-dict-version":
            problem = "whose TypedDict is of typing. On Python 3.11 write: from typing_extensions import TypedDict"
    except Exception as exc:
        problem = f"which is no type for pydantic: {type(exc).__name__}: {exc}"
    else:
        return adapter
    raise HandlerError(f"says {name}: {shown_type(annotation)}, {problem}.")


class Body(Input):
    """A body in JSON."""

    def __init__(self, taken: Taken) -> None:
        if taken.annotation is bytes:
            raise HandlerError("says body: bytes, but a typed body is JSON. Read bytes with await request.body().")
        super().__init__(taken)
        self.any_type = not self.is_checked or AnyContentType in getattr(taken.annotation, "__metadata__", ())
        self.validate = self.adapter.validator.validate_json
        self.numbers = open_numbers(self.schema)

    async def read(self, request: Request) -> Any:
        """Return the checked body. Raises `BadRequest`, and `HTTPException` for 415."""
        return self.check(request, await request.body())

    def check(self, request: Request, data: bytes) -> Any:
        """Return what a body says. Raises what `read` raises."""
        if not data:
            if self.default is not EMPTY:
                return self.default
            raise BadRequest((self.name, "is required: JSON, with Content-Type: application/json"))
        if PLAIN not in request.scope["headers"] and not self.any_type and not is_json(request):
            raise HTTPException(
                415, "The body must be JSON, with Content-Type: application/json", {"Accept": "application/json"}
            )
        if (
            (78 in data or 73 in data or self.numbers)  # an N or an I
            and may_hold_wild(data, self.numbers)
            and (wild := wild_numbers(data))
        ):
            raise BadRequest(*wild)
        try:
            return self.validate(data, strict=True)
        except ValidationError as exc:
            if data.startswith(BOM):  # RFC 8259 8.1: a reader may ignore it
                return self._read_again(data.removeprefix(BOM))
            raise self._refusal(exc, data) from None

    def _read_again(self, data: bytes) -> Any:
        try:
            return self.validate(data, strict=True)
        except ValidationError as exc:
            raise self._refusal(exc, data) from None

    def _refusal(self, exc: ValidationError, data: bytes) -> BadRequest:
        try:
            value = from_json(data)
        except ValueError as problem:
            words = str(problem)
            too_deep = words.startswith("recursion limit")
            return BadRequest((self.name, "is nested too deeply" if too_deep else f"is not JSON: {words}"))
        return BadRequest(*problems_of(exc, self.name, value, self.schema))


class Value(Input, Generic[T]):
    """A value that a handler has made: the fields of a form, or of a body in another shape."""

    def __init__(self, annotation: type[T]) -> None:
        super().__init__(Taken("body", annotation, EMPTY, False))

    def check(self, value: Any) -> T:
        """Return the checked value; text is converted where a field is none. Raises `BadRequest`."""
        try:
            return self.adapter.validate_python(value)
        except ValidationError as exc:
            raise BadRequest(*problems_of(exc, self.name, value, self.schema)) from None


def is_json(request: Request) -> bool:
    """Whether a body is declared as JSON: `application/json`, or a type that ends in `+json` (RFC 6839)."""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))
    return False


DIGITS = bytes.maketrans(b"123456789E", b"000000000e")


def may_hold_wild(data: bytes, numbers: frozenset[str]) -> bool:
    """Whether numbers in JSON may be out of bounds: NaN, an exponent of three digits, or nineteen digits in a row.

    ``numbers`` are the kinds that a type may let through (`open_numbers`). True for some texts too, which costs no more
    than a look: 0.6 us, where a regular expression takes 2. To look for one byte first takes a fifth of the time.
    """
    if (78 in data and b"NaN" in data) or (73 in data and b"Infinity" in data):
        return True
    if not numbers:
        return False
    digits = data.translate(DIGITS, b"+")
    return b"0000000000000000000" in digits or ("number" in numbers and b"e000" in digits)


def wild_numbers(data: bytes) -> list[tuple[str, str]]:
    """Name the numbers that are out of bounds, by where they stand; what is no JSON is left to its own message."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return []
    found: list[tuple[str, str]] = []
    places: list[tuple[Any, Any]] = [((), whole)]  # a place is (the place above, key): a path is built for few of them
    for place, value in places:  # grows while it is read
        if isinstance(value, dict):
            places += [((place, key), inner) for key, inner in cast("dict[str, Any]", value).items()]
        elif isinstance(value, list):
            places += [((place, key), inner) for key, inner in enumerate(cast("list[Any]", value))]
        elif isinstance(value, float) and not math.isfinite(value):
            found.append((_path(place), "must be a finite number"))
        elif isinstance(value, int) and not LEAST <= value <= GREATEST:
            found.append((_path(place), "must be a number of 64 bits; write a longer one as a string"))
        if len(found) == MOST:
            break
    return found


def _path(place: Any) -> str:
    keys: list[str] = []
    while place:
        place, key = place
        keys.append(str(key)[:LONGEST])
    return ".".join(reversed(keys)) or "body"


class Text(Input):
    """What comes as text, by name: the segments of a path, or the pairs of a query."""

    def __init__(self, taken: Taken) -> None:
        super().__init__(taken)
        if not kinds_of(self.schema, self.schema) <= {"object"}:
            raise HandlerError(
                f"says {self.name}: {shown_type(taken.annotation)}, but {self.name} is made of names. "
                "Write a dataclass, a TypedDict or a model."
            )
        self.fields = fields_of(self.schema, self.schema)
        self.kinds = {name: kinds_of(field, self.schema) for name, field in self.fields.items()}
        self.lists = {name: self._items(name) for name, kinds in self.kinds.items() if "array" in kinds}
        self.others = set[str]()  # the kinds of a name that is not among the fields
        if isinstance(others := self.schema.get("additionalProperties"), Mapping):
            self.others = kinds_of(cast("Schema", others), self.schema)
        self.validate = self.adapter.validator.validate_python

    def _items(self, name: str) -> set[str]:
        found = below([self.fields[name]], 0, self.schema)
        return set[str]().union(*(kinds_of(items, self.schema) for items in found))

    def value(self, name: str, texts: Sequence[str]) -> Any:
        """Turn the texts of one name into what its field may be: a list where it is one, else the last."""
        if name in self.lists:
            return [convert(text, self.lists[name]) for text in texts]
        return convert(texts[-1], self.kinds.get(name, self.others))


def convert(text: str, kinds: set[str]) -> Any:
    """Read a number where only a number can be meant: 7, but not ` 7`, +7, 7_0 or inf, which `int` and `float` take."""
    if not kinds or not kinds <= {"integer", "number", "null"}:
        return text
    if INTEGER.fullmatch(text) and LEAST <= int(text) <= GREATEST:
        return int(text)
    if "number" in kinds and NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return ""  # which is no number either, and gets the message of one


class Query(Text):
    """The query: a name that is repeated fills a list, and is its last value elsewhere."""

    def read(self, request: Request) -> Any:
        """Return the checked query. Raises `BadRequest`."""
        sent: dict[str, list[str]] = {}
        for name, text in request.query_params.multi_items():
            sent.setdefault(name, []).append(text)
        values = {name: self.value(name, texts) for name, texts in sent.items()}
        try:
            return self.validate(values)
        except ValidationError as exc:
            raise BadRequest(*problems_of(exc, self.name, values, self.schema)) from None


class Params(Text):
    """The parameters of the path; ``ranks`` are those of its folder: 1 is [x], 2 is [...x], 3 is [[...x]]."""

    def __init__(self, taken: Taken, ranks: Mapping[str, int]) -> None:
        super().__init__(taken)
        self.names = tuple(ranks)
        if "additionalProperties" not in self.schema or self.fields:  # it is no dict, whose names may be any
            self._check(ranks)

    def _check(self, ranks: Mapping[str, int]) -> None:
        folder = {name: ("", f"[{name}]", f"[...{name}]", f"[[...{name}]]")[rank] for name, rank in ranks.items()}
        for name in self.fields:
            if name not in ranks:
                known = f"it has {', '.join(folder.values())}" if folder else "it has no parameter"
                raise HandlerError(
                    f"has a field {name} in params, but no folder of the path is called [{name}]: {known}. "
                    "Rename the field or the folder."
                )
        for name, rank in ranks.items():
            if name not in self.fields:
                raise HandlerError(f"has no field {name} in params, but {folder[name]} is in its path. Add the field.")
            kinds = self.kinds[name]
            if kinds and (rank > 1) != ("array" in kinds):
                fitting = f"list[str], since {folder[name]} is a list" if rank > 1 else "of one value, not a list"
                raise HandlerError(f"has a field {name} in params that must be {fitting}.")
            if rank == 3 and name in self.schema.get("required", ()):
                raise HandlerError(f"has a field {name} in params without a default, but {folder[name]} may be absent.")

    def read(self, request: Request) -> Any:
        """Return the checked parameters. Raises `HTTPException` for 404: no such thing can be there."""
        sent = request.path_params
        values: dict[str, Any] = {}
        for name in self.names:
            if name in sent:
                values[name] = self.value(name, sent[name] if isinstance(sent[name], list) else [sent[name]])
        try:
            return self.validate(values)
        except ValidationError:
            raise HTTPException(404) from None

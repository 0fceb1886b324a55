"""The tree as an OpenAPI 3.1 document: what its annotations, docstrings and checks say, and nothing else.

https://spec.openapis.org/oas/v3.1.1. A path, a parameter, a body and an answer are described by the same objects that
check them (`Route.bound`), so the document cannot say what the app does not do. `python -m app openapi` prints it;
docs/typed.md says what to write for what.
"""

import inspect
import itertools
import logging
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, cast, get_args, get_origin
from urllib.parse import quote

from pydantic import PydanticUserError, TypeAdapter
from starlette import responses

from config import HERE
from router import Route, Segment
from typed.binding import Bound, Check
from typed.inputs import Input, Schemas
from typed.schemas import alternatives, fields_of, without_null
from typed.signature import EMPTY, WITHOUT_BODY, innermost, returns_of, shown_type

logger = logging.getLogger("openapi")

VERSION = "3.1.1"
REFERENCE = "#/components/schemas/{model}"

PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "What an answer of 400 or more says.",
    "properties": {
        "error": {"type": "string"},
        "details": {
            "type": "array",
            "description": "With 400: one entry for each field that does not fit.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
    "required": ["error"],
}
REFUSALS: Mapping[int | str, str] = {
    400: "Bad request",
    401: "Unauthorized",
    404: "Not found",
    413: "Content too large",
    415: "Unsupported media type",
    500: "Server error",
    "4XX": "Any other refusal",
    "5XX": "Any other failure",
}
BEARER = {"type": "http", "scheme": "bearer"}

JSON, EVENTS = "application/json", "text/event-stream"


class Operation(NamedTuple):
    """One verb of one path."""

    path: str
    verb: str
    route: Route
    bound: Bound
    segments: tuple[Segment, ...]


class Answer(NamedTuple):
    """One response that a handler's annotation names."""

    status: str
    media_type: str | None  # None: no content
    content: Any  # a type, or None where the annotation does not say
    where: str  # the file and the verb


def document(routes: Iterable[Route], *, title: str, version: str, server: str = "/") -> dict[str, Any]:
    """Describe the routes, in the order in which they are tried."""
    found = list(operations(routes))
    answers = [list(answers_of(operation)) for operation in found]
    schemas = _schemas(found, itertools.chain(*answers))
    paths: dict[str, dict[str, Any]] = {}
    ids: set[str] = set()
    for operation, answer in zip(found, answers, strict=True):
        described = _operation(operation, answer, schemas)
        described["operationId"] = next(name for name in _names(operation) if name not in ids)
        ids.add(described["operationId"])
        paths.setdefault(operation.path, {})[operation.verb.lower()] = described
    schemes = {
        name: scheme for one in found for check in one.bound.checks for name, scheme in _schemes_of(check).items()
    }
    refusals = sorted({status for operation in found for status in _refusals(operation)}, key=str)
    components: dict[str, Any] = {
        "schemas": _used(paths, schemas.definitions),
        "responses": {_name(status): _refusal(status) for status in refusals},
    }
    if schemes:
        components["securitySchemes"] = schemes
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": version},
        "servers": [{"url": server}],
        "paths": paths,
        "components": components,
    }


def project() -> dict[str, str]:
    """The project's name and version, as a document's title and version."""
    found = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"title": found["name"], "version": found["version"]}


def operations(routes: Iterable[Route]) -> Iterator[Operation]:
    """Yield each path and verb; an optional catch-all is two paths, and of paths of one shape the first answers."""
    shapes: set[str] = set()
    for route in routes:
        whole = tuple(route.segments)
        for segments in [whole[:-1], whole] if whole and whole[-1].rank == 3 else [whole]:
            path = "/" + "/".join(
                f"{{{s.text}}}" if s.rank else quote(s.text, safe="!$&'()*+,;=:@-._~") for s in segments
            )
            shape = re.sub(r"\{[^}]*\}", "{}", path)
            if shape in shapes:
                continue
            shapes.add(shape)
            for verb, bound in route.bound.items():
                if verb != "OPTIONS":
                    yield Operation(path, verb, route, bound, segments)


def _names(operation: Operation) -> Iterator[str]:
    """Names for generated clients: `getUsersById` of GET /users/{id}, and with a number where that is taken."""
    words = [f"by-{segment.text}" if segment.rank else segment.text for segment in operation.segments]
    parts = re.findall(r"[A-Za-z0-9]+", "-".join(words))
    name = operation.verb.lower() + "".join(part[:1].upper() + part[1:] for part in parts)
    yield name
    yield from (f"{name}{number}" for number in itertools.count(2))


# Answers


def answers_of(operation: Operation) -> Iterator[Answer]:
    """Read a return annotation: `JSONResponse[Post]`, `Annotated[JSONResponse[Post], 201]`, a union of such."""
    where = f"{operation.route.file}: {operation.verb}"
    if operation.verb == "HEAD":
        yield Answer("2XX", None, None, where)
        return
    for annotation in _members(returns_of(operation.route.handlers[operation.verb])):
        status, kind = "2XX", annotation
        if get_origin(annotation) is Annotated:
            kind, *notes = get_args(annotation)
            status = next((str(note) for note in notes if isinstance(note, int)), status)
        cls: Any = get_origin(kind) or kind
        content: Any = next(iter(get_args(kind)), None)
        if not inspect.isclass(cls) or not issubclass(cls, responses.Response):
            yield Answer(status, "*/*", None, where)
        elif issubclass(cls, responses.RedirectResponse):
            yield Answer("3XX" if status == "2XX" else status, None, None, where)
        elif status in ("204", "304"):
            yield Answer(status, None, None, where)
        elif issubclass(cls, responses.StreamingResponse) or cls.media_type is None:
            yield Answer(status, "*/*", None, where)
        else:
            text = cls.media_type.startswith("text/") and cls.media_type != EVENTS
            yield Answer(status, cls.media_type, content or (str if text else None), where)


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


# Schemas


class Found(NamedTuple):
    """The schemas of all inputs and contents, by the identity of what they are of, and what they refer to."""

    schemas: Mapping[int, Any]
    definitions: Mapping[str, Any]

    def of_input(self, given: Input | None) -> Any:
        return self.schemas.get(id(given), {})

    def of_answer(self, answer: Answer) -> Any:
        return self.schemas.get(id(answer.content), {})

    def fields(self, given: Input | None) -> dict[str, Any]:
        """The named fields of what comes as text."""
        return {**fields_of(self.of_input(given), {"$defs": self.definitions})}

    def required(self, given: Input) -> set[str]:
        several = alternatives(self.of_input(given), {"$defs": self.definitions})
        return set[str].intersection(*(set(one.get("required", ())) for one in several))


def _schemas(operations: Sequence[Operation], answers: Iterable[Answer]) -> Found:
    wanted: list[tuple[int, Any, TypeAdapter[Any]]] = []
    for operation in operations:
        inputs = operation.bound.inputs.values()
        wanted += [(id(given), "validation", given.adapter) for given in inputs if given.schema]
    for answer in answers:
        if answer.content is not None and (adapter := _adapter(answer)):
            wanted.append((id(answer.content), "serialization", adapter))
    unique = {key: (key, mode, adapter) for key, mode, adapter in wanted}
    schemas, definitions = TypeAdapter[Any].json_schemas(
        list(unique.values()), ref_template=REFERENCE, schema_generator=Schemas
    )
    return Found({key: schema for (key, _), schema in schemas.items()}, definitions.get("$defs", {}))


def _adapter(answer: Answer) -> TypeAdapter[Any] | None:
    try:
        adapter = TypeAdapter[Any](answer.content)
        adapter.json_schema(mode="serialization", schema_generator=Schemas)
    except PydanticUserError as exc:
        problem = exc.message.partition("\n")[0]
        logger.warning("%s answers with %s, which has no schema: %s", answer.where, shown_type(answer.content), problem)
        return None
    return adapter


def _used(paths: Any, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas that the paths refer to, and those that these refer to."""
    used: dict[str, Any] = {"Problem": PROBLEM}
    places: list[Any] = [paths]
    for place in places:  # grows while it is read
        if isinstance(place, Mapping):
            entries = cast("Mapping[str, Any]", place)
            name = str(entries.get("$ref", "")).rpartition("/")[2]
            if name in schemas and name not in used:
                used[name] = schemas[name]
                places.append(schemas[name])
            places += entries.values()
        elif isinstance(place, list):
            places += cast("list[Any]", place)
    return dict(sorted(used.items()))


# One operation


def _operation(operation: Operation, answers: Sequence[Answer], found: Found) -> dict[str, Any]:
    handler = operation.route.handlers[operation.verb]
    summary, _, rest = (inspect.getdoc(innermost(handler)) or "").partition("\n")
    described: dict[str, Any] = {"operationId": ""}
    if summary:
        described["summary"] = summary
    if rest.strip():
        described["description"] = rest.strip()
    if parameters := [*_path_parameters(operation, found), *_query_parameters(operation, found)]:
        described["parameters"] = parameters
    takes = {taken.name: taken for taken in operation.bound.takes.others}
    if body := takes.get("body"):
        schema = found.of_input(operation.bound.inputs.get("body"))
        described["requestBody"] = {"required": body.default is EMPTY, "content": {JSON: {"schema": schema}}}
    described["responses"] = _responses(operation, answers, found)
    if security := _security(operation.bound.checks):
        described["security"] = security
    return described


def _path_parameters(operation: Operation, found: Found) -> Iterator[dict[str, Any]]:
    fields = found.fields(operation.bound.inputs.get("params"))
    for segment in operation.segments:
        if not segment.rank:
            continue
        plain: Any = {"type": "string"} if segment.rank == 1 else {"type": "array", "items": {"type": "string"}}
        parameter = {"name": segment.text, "in": "path", "required": True, "schema": fields.get(segment.text, plain)}
        if segment.rank > 1:
            parameter["description"] = "One segment of the path or more, with / between them."
            parameter["x-catch-all"] = str(segment)
        yield parameter


def _query_parameters(operation: Operation, found: Found) -> Iterator[dict[str, Any]]:
    query = operation.bound.inputs.get("query")
    if query is None:
        return
    fields, required = found.fields(query), found.required(query)
    for name, field in fields.items():
        parameter = {"name": name, "in": "query", "required": name in required, "schema": without_null(field)}
        if "description" in field:
            parameter["description"] = field["description"]
        yield parameter
    if not fields:
        yield {"name": "query", "in": "query", "style": "form", "explode": True, "schema": found.of_input(query)}


def _responses(operation: Operation, answers: Sequence[Answer], found: Found) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for answer in answers:
        response = described.setdefault(answer.status, {"description": "The answer"})
        if answer.media_type is None:
            continue
        content = response.setdefault("content", {})
        schema = found.of_answer(answer)
        if answer.media_type == EVENTS:
            response["description"] = (
                "Server-sent events: the data of each is JSON of this schema, and [DONE] at the end"
            )
        before = content.get(answer.media_type, {}).get("schema")
        content[answer.media_type] = {"schema": {"anyOf": [before, schema]} if before else schema}
    return described | {
        str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in _refusals(operation)
    }


def _refusals(operation: Operation) -> Iterator[int | str]:
    """The errors that the app answers in the place of a handler, and whatever the handler raises itself."""
    bound = operation.bound
    takes = {taken.name for taken in bound.takes.others}
    has_params = any(segment.rank for segment in operation.segments)
    if has_params or "query" in bound.inputs or "body" in takes:
        yield 400
    if _security(bound.checks):
        yield 401
    if has_params:
        yield 404
    if operation.verb not in WITHOUT_BODY:
        yield 413
    if not getattr(bound.inputs.get("body"), "any_type", True):
        yield 415
    yield "4XX"
    yield 500
    yield "5XX"


def _name(status: int | str) -> str:
    return REFUSALS[status].title().replace(" ", "")


def _refusal(status: int | str) -> dict[str, Any]:
    return {"description": REFUSALS[status], "content": {JSON: {"schema": {"$ref": REFERENCE.format(model="Problem")}}}}


# Security


def _security(checks: Sequence[Check]) -> list[dict[str, list[str]]]:
    """All of the checks must pass, each for one of those that it lets in: `check.askers` (auth.py)."""
    several = [list(_schemes_of(check)) for check in checks if hasattr(check, "askers")]
    return [{name: [] for name in names} for names in itertools.product(*several)] if several else []


def _schemes_of(check: Check) -> dict[str, Any]:
    """The security schemes of a check: an asker's own `schemes`, or a bearer token that has its name."""
    schemes: dict[str, Any] = {}
    askers: Sequence[Callable[..., Any]] = getattr(check, "askers", ())
    for asker in askers:
        summary = (inspect.getdoc(asker) or "").partition("\n")[0]
        schemes |= getattr(asker, "schemes", None) or {asker.__name__: {**BEARER, "description": summary}}
    return schemes

"""Read what a handler takes from its signature, and refuse what nothing would hand in."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints, is_typeddict

from starlette.datastructures import QueryParams
from starlette.requests import Request

EMPTY: Any = inspect.Parameter.empty
NAMES = ("params", "query", "body")
WITHOUT_BODY = ("GET", "HEAD", "DELETE")  # a body has no meaning in these: RFC 9110 9.3.1, 9.3.2, 9.3.5


class AnyContentType:
    """In `body: Annotated[Post, AnyContentType]`: the body is read as JSON whatever it says that it is."""


class HandlerError(ValueError):
    """A handler that cannot be called; the message names the parameter and the fix."""


class Taken(NamedTuple):
    """One of `params`, `query`, `body`, as a handler takes it."""

    name: str
    annotation: Any  # EMPTY where it is handed in as it is, without a check
    default: Any
    by_keyword: bool


class Takes(NamedTuple):
    """All that a handler takes: whether the request, and what else, in the order of its signature."""

    request: bool
    others: tuple[Taken, ...]


def takes_of(handler: Callable[..., Any], verb: str, names: Sequence[str] = ()) -> Takes:
    """Read a handler's signature; ``names`` are the parameters of its folder. Raises `HandlerError`."""
    parameters = _parameters(handler, verb)
    if parameters is None:
        return Takes(True, ())  # a decorator that hides what it wraps
    first = next((p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)), None)
    if first is not None:
        _check_request(first, handler, verb, names)
    others: list[Taken] = []
    positional = True  # until a parameter is left to its default: those behind it are handed in by name
    for parameter in parameters:
        if parameter is first:
            continue
        if parameter.name in NAMES:
            by_keyword = parameter.kind is parameter.KEYWORD_ONLY or not positional
            annotation = _checked(parameter, handler, verb)
            others.append(Taken(parameter.name, annotation, parameter.default, by_keyword))
            continue
        positional = False
        if parameter.default is EMPTY or _is_data(parameter, handler):
            raise HandlerError(_stranger(parameter, handler, verb, names))
    return Takes(first is not None, tuple(others))


def _parameters(handler: Callable[..., Any], verb: str) -> list[inspect.Parameter] | None:
    """The parameters to fill in; None for `*args` of a decorator that does not say what it wraps."""
    for follow_wrapped in (False, True):
        try:
            signature = inspect.signature(handler, follow_wrapped=follow_wrapped)
        except ValueError:
            raise HandlerError(
                f"is a built-in function whose parameters nobody can tell. Write: async def {verb}(request): ..."
            ) from None
        found = list(signature.parameters.values())
        hides = any(p.kind is p.VAR_POSITIONAL for p in found)
        if not hides and not (hasattr(handler, "__wrapped__") and any(p.kind is p.VAR_KEYWORD for p in found)):
            break
    else:
        if hides:
            return None
    bound = _bound(handler)
    return [p for p in found if p.kind is not p.VAR_KEYWORD and p.name not in bound]


def _bound(handler: Any) -> Mapping[str, Any]:
    """What partials have filled in by name: the handler's own affair."""
    bound: dict[str, Any] = {}
    while isinstance(handler, functools.partial):
        bound.update(handler.keywords)
        handler = handler.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return bound


def _check_request(first: inspect.Parameter, handler: Callable[..., Any], verb: str, names: Sequence[str]) -> None:
    """Refuse a first parameter that is not meant to be the request, as in FastAPI's `GET(id: str)`."""
    annotation = _resolved(first, handler)
    another = first.name in NAMES or (first.name in names and first.name not in ("request", "req"))
    meant = not another or (first.annotation is not EMPTY and first.name not in NAMES)
    if not meant or not _may_be_request(annotation):
        raise HandlerError(_stranger(first, handler, verb, names))


def _may_be_request(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    if kind in (Union, UnionType):
        return any(_may_be_request(argument) for argument in get_args(annotation))
    if kind is Annotated:
        return _may_be_request(get_args(annotation)[0])
    if kind is EMPTY or not inspect.isclass(kind):
        return kind is not Literal
    return issubclass(kind, Request) or issubclass(Request, kind) or getattr(kind, "_is_protocol", False)


def _checked(parameter: inspect.Parameter, handler: Callable[..., Any], verb: str) -> Any:
    """The annotation by which a parameter is checked, or EMPTY where it is handed in as it came."""
    name = parameter.name
    if name == "body" and verb in WITHOUT_BODY:
        raise HandlerError(
            f"takes a body, which has no meaning in a {verb} (RFC 9110 9.3). "
            "Take it in POST, PUT or PATCH, or read what you need from query."
        )
    annotation = _resolved(parameter, handler)
    if isinstance(annotation, str):
        raise HandlerError(
            f"says {name}: {annotation}, and there is no such name where the handler stands. "
            "Import or define it at the top of the file, and not under TYPE_CHECKING."
        )
    kind = get_origin(annotation) or annotation
    as_it_came = {
        "params": (EMPTY, Any, object, dict, Mapping),
        "query": (EMPTY, Any, object, QueryParams, Mapping),
        "body": (EMPTY, Any, object),
    }[name]
    untouched = all(value in (Any, object, str, str | list[str]) for value in get_args(annotation)[1:])
    return EMPTY if kind in as_it_came and untouched else annotation


def _resolved(parameter: inspect.Parameter, handler: Callable[..., Any]) -> Any:
    """A parameter's annotation, evaluated where the handler stands; the text itself where that fails."""
    annotation = parameter.annotation
    if annotation is EMPTY or (inspect.isclass(annotation) and not get_args(annotation)):
        return annotation
    holder: Any = SimpleNamespace(__annotations__={parameter.name: annotation})
    try:
        return get_type_hints(holder, _globals(handler), include_extras=True)[parameter.name]
    except Exception:
        return annotation


def _globals(handler: Any) -> dict[str, Any]:
    inner = innermost(handler)
    return getattr(inner, "__globals__", None) or getattr(inner.__call__, "__globals__", {})


def innermost(handler: Any) -> Any:
    """What decorators that say so, and partials, are around."""
    while (inner := getattr(handler, "__wrapped__", None) or getattr(handler, "func", None)) is not None:
        handler = inner
    return handler


def returns_of(handler: Callable[..., Any]) -> Any:
    """The annotation of what a handler returns; `Any` where there is none, or where it cannot be evaluated."""
    annotation = inspect.signature(handler).return_annotation
    if annotation is EMPTY:
        return Any
    holder = inspect.Parameter("returned", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    found = _resolved(holder, handler)
    return Any if isinstance(found, str) else found


def _is_data(parameter: inspect.Parameter, handler: Callable[..., Any]) -> bool:
    """Whether a parameter with a default waits for what FastAPI reads from the request, as ``q: str = ""`` does."""
    annotation = _resolved(parameter, handler)
    foreign = [parameter.default, *(get_args(annotation) if get_origin(annotation) is Annotated else ())]
    if any(type(value).__module__.partition(".")[0] == "fastapi" for value in foreign):
        return True
    return any(map(_is_sent, _alternatives(annotation)))


def _alternatives(annotation: Any) -> Iterator[Any]:
    kind = get_origin(annotation)
    if kind is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif kind in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    else:
        yield annotation


def _is_sent(annotation: Any) -> bool:
    """Whether a value of this type is what a client sends in a path, a query or a body."""
    kind = get_origin(annotation) or annotation
    if kind is Literal:
        return True
    if not inspect.isclass(kind):
        return False
    known = kind.__module__ in ("datetime", "decimal", "uuid") or issubclass(kind, Enum)
    return known or kind in (str, int, float, bool, bytes, list, dict, set, tuple) or hasattr(kind, "model_fields")


def _is_record(annotation: Any) -> bool:
    return is_dataclass(annotation) or is_typeddict(annotation) or hasattr(annotation, "model_fields")


def _stranger(parameter: inspect.Parameter, handler: Callable[..., Any], verb: str, names: Sequence[str]) -> str:
    """Say that nothing hands a parameter in, and what to write instead."""
    name = parameter.name
    shown = name if parameter.annotation is EMPTY else f"{name}: {shown_type(parameter.annotation)}"
    kinds = list(_alternatives(_resolved(parameter, handler)))
    if name in names:
        fix = f"Write async def {verb}(request, params), and read params[{name!r}]"
    elif name in NAMES:
        return f"takes {shown} first, where the request comes. Write async def {verb}(request, {shown})."
    elif parameter.annotation is EMPTY:
        fix = f"Write async def {verb}(request), and any of params, query and body behind it"
    elif any(map(_is_record, kinds)):
        place = "query" if verb in WITHOUT_BODY else "body"
        fix = f"Write async def {verb}(request, {place}: {shown_type(parameter.annotation)})"
    elif any(map(_is_sent, kinds)):
        fix = f"Write async def {verb}(request, query), and read query[{name!r}], or type query and give it this field"
    else:
        fix = f"Write async def {verb}(request), and read it from the request or from request.state"
    default = "" if parameter.default is EMPTY else f" = {parameter.default!r}"
    return f"takes '{shown}{default}', which nothing hands in: parameters are found by name. {fix} (docs/typed.md)."


def shown_type(annotation: Any) -> str:
    """An annotation as its author wrote it."""
    if isinstance(annotation, str):
        return annotation
    if inspect.isclass(annotation) and not get_args(annotation):
        return annotation.__name__
    return inspect.formatannotation(annotation)

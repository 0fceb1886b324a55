"""Turn a handler into a function of the request alone: its checks first, then what it takes, then the handler."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from anyio import to_thread

from errors import Request, is_async
from typed.signature import EMPTY, HandlerError, Taken, Takes, takes_of

if TYPE_CHECKING:
    from typed.inputs import Input

Handler = Callable[..., Any]  # to a Response, or to an awaitable of one
Check = Callable[[Request], Any]  # plain or async; raises what is answered in place of the handler: `Unauthorized`
Call = Callable[[Request], Awaitable[Any]]


class Bound(NamedTuple):
    """A handler that can be called, and what the documents of it are made from."""

    call: Call
    takes: Takes
    checks: tuple[Check, ...]
    inputs: Mapping[str, "Input"]  # by name, those that are checked or described


def bind(handler: Handler, verb: str, ranks: Mapping[str, int]) -> Bound:
    """Make a handler ready; ``ranks`` are its folder's parameters: 1 is [x], 2 [...x], 3 [[...x]].

    Raises `HandlerError` for what nothing can hand in, and for types that cannot be checked.
    """
    try:
        takes = takes_of(handler, verb, tuple(ranks))
        inputs = _inputs(takes, ranks)
    except HandlerError as exc:
        raise HandlerError(f"{verb} {exc}") from None
    checks = tuple(checks_of(handler))
    call = _called(handler, takes, {name: given for name, given in inputs.items() if given.is_checked})
    return Bound(_checked(call, checks) if checks else call, takes, checks, inputs)


def _inputs(takes: Takes, ranks: Mapping[str, int]) -> "dict[str, Input]":
    typed = [taken for taken in takes.others if taken.annotation is not EMPTY]
    if not typed:
        return {}
    from typed.inputs import Body, Params, Query  # with pydantic, which takes 0.15 s to import

    def read(taken: Taken) -> "Input":
        return Params(taken, ranks) if taken.name == "params" else {"query": Query, "body": Body}[taken.name](taken)

    return {taken.name: read(taken) for taken in typed}


def _called(handler: Handler, takes: Takes, inputs: "Mapping[str, Input]") -> Call:
    """Call a handler with what it takes; a plain function runs in a thread."""
    asynchronous = is_async(handler)
    if asynchronous and takes == (True, ()):
        return handler
    if asynchronous and takes == (False, ()):
        return lambda request: handler()
    read = {taken.name: _reader(taken, inputs) for taken in takes.others}
    if asynchronous and takes.request and len(read) == 1 and not takes.others[0].by_keyword:
        return _with_one(handler, takes.others[0], inputs, *read.values())
    names = [name for name in ("params", "query") if name in read]
    places = [taken.name for taken in takes.others if not taken.by_keyword]
    keywords = [taken.name for taken in takes.others if taken.by_keyword]
    request_first = takes.request
    has_body = "body" in read

    async def call(request: Request) -> Any:
        values = {name: read[name](request) for name in names}  # 404 and 400 before the body is waited for
        if has_body:
            values["body"] = await read["body"](request)
        given: list[Any] = [values[name] for name in places]
        if request_first:
            given.insert(0, request)
        named = {name: values[name] for name in keywords}
        if asynchronous:
            return await handler(*given, **named)
        # a route's timeout answers in time, and leaves the thread to end by itself
        response: Any = await to_thread.run_sync(partial(handler, *given, **named), abandon_on_cancel=True)
        return await response if inspect.isawaitable(response) else response  # a decorator may hide an async def

    return call


def _with_one(handler: Handler, taken: Taken, inputs: "Mapping[str, Any]", read: Callable[[Request], Any]) -> Call:
    """The usual shapes, without a list or a dictionary for the arguments: 1 us less."""
    if taken.name != "body":
        return lambda request: handler(request, read(request))

    async def call(request: Request) -> Any:
        return await handler(request, await read(request))

    async def checked(request: Request) -> Any:
        return await handler(request, check(request, await request.body()))

    if taken.name not in inputs:
        return call
    check = inputs[taken.name].check
    return checked


def _reader(taken: Taken, inputs: "Mapping[str, Any]") -> Callable[[Request], Any]:
    """How one parameter is read from a request: checked, or as it came."""
    if taken.name in inputs:
        return inputs[taken.name].read
    as_it_came: Mapping[str, Callable[[Request], Any]] = {
        "params": attrgetter("path_params"),
        "query": attrgetter("query_params"),
        "body": lambda request: request.json(),
    }
    return as_it_came[taken.name]


def checks_of(handler: Handler) -> list[Check]:
    """What a handler asks of a request before its body is read: its `checks`, and those of what it wraps.

    A decorator may hide the handler below it, and with it the attribute; a check must not be lost by that, so this
    looks through partials, `__wrapped__`, closures and the attributes of callable objects.
    """
    found: list[Check] = []
    seen: set[int] = set()
    layers: list[Any] = [handler]
    for layer in layers:  # grows while it is read
        if not callable(layer) or inspect.isclass(layer) or id(layer) in seen:
            continue
        seen.add(id(layer))
        checks: Any = getattr(layer, "checks", None)
        if isinstance(checks, (list, tuple)):
            found += [check for check in cast("Sequence[Check]", checks) if check not in found]
        for cell in getattr(layer, "__closure__", None) or ():
            with suppress(ValueError):  # an empty cell
                layers.append(cell.cell_contents)
        layers += [type(layer).__call__, getattr(layer, "func", None), *getattr(layer, "__dict__", {}).values()]
    return found


def _checked(call: Call, checks: Sequence[Check]) -> Call:
    """Run the checks first, one after the other; what one raises is the answer. A plain one runs on the event loop."""

    async def checked(request: Request) -> Any:
        for check in checks:
            if inspect.isawaitable(pending := check(request)):
                await pending
        return await call(request)

    return checked

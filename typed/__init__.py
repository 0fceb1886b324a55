"""What a handler takes besides the request: `params`, `query` and `body`, found by name, checked by type.

Reading a signature needs no pydantic; the first annotation to be checked imports it (`typed.inputs`), so a tree
without types starts without it. docs/typed.md is the contract.
"""

from typed.signature import EMPTY, AnyContentType, HandlerError, Taken, Takes, takes_of

__all__ = ["EMPTY", "AnyContentType", "HandlerError", "Taken", "Takes", "takes_of"]

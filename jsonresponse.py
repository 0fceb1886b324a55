"""`JSONResponse` for handlers: Starlette's, byte for byte, for little more than half of its processor time.

Starlette's builds a new encoder for each answer and walks a list of headers. A handler can return either one.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette import responses
from starlette.background import BackgroundTask

MEDIA_TYPE = "application/json"

encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class JSONResponse(responses.JSONResponse):
    """An answer in JSON. Raises what `json.dumps` raises for what JSON does not have: NaN, a set, a circle."""

    def __init__(
        self,
        content: Any,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        if headers is None and media_type is None and status_code == 200 and self.media_type == MEDIA_TYPE:
            self.status_code = status_code
            self.background = background
            self.body = body = self.render(content)
            self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        else:
            super().__init__(content, status_code, headers, media_type, background)

    def render(self, content: Any) -> bytes:
        return encode(content).encode()

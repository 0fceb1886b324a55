"""uvicorn's HTTP/1.1, with limits on the head of a request: its size, its time, and its end.

uvicorn's parser keeps a head however long it grows, and waits for it for ever: `h11_max_incomplete_event_size` is of
another one. And it puts the trailers of a chunked body among the headers, also when both come in one packet, before the
app can take a copy. RFC 9110 6.5.1 forbids that: what a proxy strips from the headers would come in behind the body.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

TOO_LARGE = b'{"error":"The headers are too large"}'
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(TOO_LARGE), TOO_LARGE)
)


class Protocol(HttpToolsProtocol):
    head_bytes = 65_536  # of the request line and the headers, give or take a packet; nginx takes half of it
    head_seconds = 10.0  # from the connection, or from the first byte of a next request

    _deadline: asyncio.TimerHandle | None = None
    _in_head = True  # what comes is no body
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.head_seconds, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._size += len(data)
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        is_idle = not self.cycle or self.cycle.response_complete  # None before the first request
        if self._size > self.head_bytes:
            if is_idle:
                self.transport.write(REFUSAL)
            self.transport.close()
        elif is_idle and self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def on_headers_complete(self) -> None:
        self._in_head, self._size = False, 0
        self._forget_deadline()
        super().on_headers_complete()
        self.headers = self.headers[:]  # the scope keeps the list that was filled till now

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

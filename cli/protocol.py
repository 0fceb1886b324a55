"""uvicorn's HTTP/1.1, with a header section that is complete when its last line has come.

uvicorn puts the trailers of a chunked body among the headers, also when both come in one packet, before the app can
take a copy. RFC 9110 6.5.1 forbids that: what a proxy strips from the headers would come in behind the body.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.headers = []  # the scope keeps the list that was filled till now

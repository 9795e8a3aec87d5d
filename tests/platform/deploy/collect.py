"""A collector of traces that writes each span as a line of JSON; it runs in a container.

How spans are read is known to the repo's own tests.
"""

import json
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from collector import Collector


class Handler(BaseHTTPRequestHandler):
    """Takes what is sent by OTLP over HTTP."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        sent = Collector("")
        sent.take(self.rfile.read(int(self.headers["content-length"])))
        print("".join(f"{json.dumps(asdict(span))}\n" for span in sent.spans), end="", flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("", 4318), Handler).serve_forever()

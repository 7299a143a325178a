"""A small HTTP/1.1 upstream that records its requests and answers as it is programmed."""

import http.server
import json
import threading
from dataclasses import dataclass

from support.tools import ROOT

DOCUMENTED_SHARE = ROOT / "tests/gateway/fixtures/documented_share.json"


@dataclass
class Request:
    method: str
    path: str
    headers: dict  # by lower-case name
    body: bytes


class Upstream:
    """`respond(request)` returns a status and a body (bytes, or what JSON can be made of); it may be replaced at any
    time. The default is the documented share."""

    def __init__(self, address="127.0.0.1", port=0, respond=None):
        self.requests = []
        self.respond = respond or (lambda _: (200, DOCUMENTED_SHARE.read_bytes()))
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one segment: the body would wait for an acknowledgement of the head

            def answer(self):
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                request = Request(self.command, self.path, headers, body)
                upstream.requests.append(request)
                status, content = upstream.respond(request)
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

        self.server = Server((address, port), Handler)
        self.address, self.port = self.server.server_address
        self.url = f"http://{self.address}:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

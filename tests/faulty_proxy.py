"""An HTTP proxy in front of a real server, which a test makes fail; it counts how often it did."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class FaultyProxy(ThreadingHTTPServer):
    """Listens on a port of its own.

    Attributes:
        mode: `up`; `down`, every connection is cut before it is heard; `silent`, it is heard and never answered.
        swallow: endings of paths; the next request to each is passed on, and its answer is lost.
        failed: how many requests were cut, left unanswered, or lost their answer.
        passed: how many were answered.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.mode = "up"
        self.swallow: list[str] = []
        self.failed = self.passed = 0
        self.closing = threading.Event()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that was cut off


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _pass_on(self) -> None:
        proxy = self.server
        body = self._body()
        if proxy.mode != "up":
            proxy.failed += 1
            if proxy.mode == "silent":
                while proxy.mode == "silent" and not proxy.closing.is_set():
                    time.sleep(0.05)
            self.close_connection = True
            return
        connection = http.client.HTTPConnection(proxy.target.hostname or "", proxy.target.port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP | {"host"}}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        lost = next((path for path in proxy.swallow if self.path.endswith(path)), None)
        if lost is not None:
            proxy.swallow.remove(lost)
        if lost is not None or proxy.mode != "up":
            proxy.failed += 1
            self.close_connection = True
            return
        proxy.passed += 1
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy in front of the server at `target`."""
    with FaultyProxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()

"""A storage server with faults: a real S3 server of this process, and a proxy before it that spoils some answers."""

import contextlib
import http.client
import http.server
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Fault = Callable[[str, str, int], str | int | None]  # method, path and number of a request -> what to do to its answer


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on. `fault` says of each: a status, "reset", "cut" or "slow" (seconds in `delay`); None: nothing.

    `asked` are the methods and paths so far.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.asked, self.delay = port, list[tuple[str, str]](), 1.5
        self.fault: Fault = lambda method, path, number: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        self.server.asked.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path, len(self.server.asked))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "slow":
            time.sleep(self.server.delay)
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(fault, int):
            status, headers, data = fault, [], b""
        else:
            upstream = http.client.HTTPConnection("127.0.0.1", self.server.target)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            status, headers, data = answer.status, answer.getheaders(), answer.read()
            upstream.close()
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "cut":
            data, self.close_connection = data[: len(data) // 2], True
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 (the names of the library)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def storage_server() -> Iterator[Proxy]:
    """A server with an empty bucket, named `bucket`, which the environment leads to; moto makes it."""
    server = pytest.importorskip("moto.server", reason="missing moto: pip install -e '.[dev]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    real = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    real.start()
    proxy = Proxy(real.get_host_and_port()[1])
    connection = http.client.HTTPConnection("127.0.0.1", proxy.target)
    connection.request("PUT", "/bucket", headers={"Host": "s3.amazonaws.com"})
    assert connection.getresponse().status == 200
    connection.close()
    own = {
        "AWS_ACCESS_KEY_ID": "key-of-the-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}",
    }
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield proxy
    finally:
        os.environ.clear()
        os.environ.update(before)
        proxy.shutdown()
        proxy.server_close()
        real.stop()

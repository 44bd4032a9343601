"""S3 over HTTP for tests: moto behind a proxy that counts, fails now and then, and refuses.

The proxy is there before Ray is, so that Ray's workers inherit its address; the server behind it
starts when a test first needs it.
"""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[[str, str], str | int | None]


def now_and_then(seed: int, share: float) -> Fault:
    """A fault for this share of the requests: 503, a lost answer, or half an answer."""
    rng = random.Random(seed)
    return lambda method, path: (
        rng.choice([503, "drop", "half", "lose"]) if rng.random() < share else None
    )


def on(method: str, part: str, fault: str | int, times: int = 10**9) -> Fault:
    """A fault for the first requests of a method whose path holds a part."""
    left = [times]

    def choose(asked: str, path: str) -> str | int | None:
        if asked != method or part not in path or not left[0]:
            return None
        left[0] -= 1
        return fault

    return choose


class S3Server(ThreadingHTTPServer):
    """The proxy, and through it the server.

    Attributes
    ----------
    fault : callable
        Takes method and path of a request, gives what goes wrong: a status that is answered
        instead, "drop" (no answer), "lose" (done, but no answer), "half" (of the answer), or None.
    requests : list of (method, path)
    sent : int
        Bytes of bodies sent to clients.
    faults : int
        Met so far.
    clock : float
        Seconds by which the server's clock is wrong.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self._lock = threading.Lock()
        self._backend: subprocess.Popen | None = None
        self.port: int | None = None
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.reset()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reset(self) -> None:
        self.fault: Fault = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.sent = self.faults = 0
        self.clock = 0.0

    def start_backend(self) -> None:
        if self._backend is None:
            script = str(Path(__file__).with_name("s3_backend.py"))
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._backend = subprocess.Popen([sys.executable, script], **pipes)
            self.port = int(self._backend.stdout.readline())

    def make(self, bucket: str, keys: str, files: list, number: int | None = None) -> None:
        """Make objects of files, in the server itself; `keys` numbers them."""
        files = [str(file) for file in files]
        asked = {"bucket": bucket, "keys": keys, "files": files, "number": number or len(files)}
        self._backend.stdin.write(json.dumps(asked) + "\n")
        self._backend.stdin.flush()
        assert self._backend.stdout.readline() == "made\n"

    def note(self, method: str, path: str) -> str | int | None:
        with self._lock:
            self.requests.append((method, path))
            fault = self.fault(method, path)
            self.faults += fault is not None
            return fault

    def handle_error(self, request, client_address) -> None:
        pass  # clients hang up when they have been cut off

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        if self._backend is not None:
            self._backend.stdin.close()
            self._backend.wait(20)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()  # or the client waits for it
        return going_on

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.note(self.command, self.path)
        if isinstance(fault, int):
            return self._refuse(fault)
        if fault == "drop":
            self.close_connection = True
            return None
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "lose":
            self.close_connection = True
            return None
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() in ("date", "last-modified"):
                value = formatdate(parsedate_to_datetime(value).timestamp() + self.server.clock)
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = len(content)
        if self.command == "HEAD":
            length = answer.getheader("Content-Length", "0")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "half":
            content = content[: len(content) // 2]
            self.close_connection = True
        self.server.sent += len(content)
        self.wfile.write(content)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def _refuse(self, status: int) -> None:
        code = {403: "AccessDenied", 412: "PreconditionFailed", 503: "ServiceUnavailable"}[status]
        body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass

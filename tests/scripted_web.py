"""A web server whose paths are functions, for what servers do to those who fetch from them."""

import http.server
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        self.server.requests.append((self.command, self.path, dict(self.headers), self.body))
        act = self.server.paths.get(self.path.partition("?")[0])
        if act is None:
            return self.send(404, b"not here")
        return act(self)

    do_GET = do_POST = do_PUT = answer

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def endless(self, chunk, pause=0.0):
        """Send a body of unknown length until the client hangs up."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while not self.server.stopped.is_set():
            self.wfile.write(chunk)
            self.wfile.flush()
            time.sleep(pause)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients hang up on what they do not like


def body(content: bytes, **headers) -> Callable:
    return lambda handler: handler.send(200, content, **headers)


def redirect(location: str, status: int = 302) -> Callable:
    return lambda handler: handler.send(status, Location=location)


def status(code: int, content: bytes = b"") -> Callable:
    return lambda handler: handler.send(code, content)


def in_turn(*acts: Callable) -> Callable:
    """One after another, the last for ever."""
    left = list(acts)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def hang_up(handler) -> None:
    handler.close_connection = True


def half(handler) -> None:
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 500)
    handler.close_connection = True


@contextmanager
def serving(
    paths: dict[str, Callable], host="127.0.0.1", port=0, tls: ssl.SSLContext | None = None
):
    """Serve these paths; `requests` holds (method, path, headers, body) of each request."""
    with Server((host, port), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.paths, server.requests, server.stopped = paths, [], threading.Event()
        server.url = f"{'https' if tls else 'http'}://{host}:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()

"""A web server of objects in memory that answers as it is told: the network's edge, for tests."""

import http.server
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager


class Handler(http.server.BaseHTTPRequestHandler):
    """A small web server, of objects in memory, that answers as it is told."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        server = self.server
        with server.counting:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            if server.opens_at and server.at_once >= server.opens_at:
                server.opened.set()
        time.sleep(server.delay)
        server.opened.wait(120)
        try:
            self.answer_now(server, with_body)
        finally:
            with server.counting:
                server.at_once -= 1

    def answer_now(self, server, with_body):
        path = self.path.partition("?")[0]
        asked_for = re.match(r"/status/(\d+)", path)
        status = int(asked_for[1]) if asked_for else server.refused.get(path)
        body = server.objects.get(path)
        if status or body is None:
            self.send_response(status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first = 0
        if asked and server.ranges:
            first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
            total, body = len(body), body[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body and first + len(body) > server.dies_after:
            self.close_connection = True
            body = body[: max(0, server.dies_after - first)]
        if with_body:
            server.begun[path] += first == 0
            server.sent += len(body)
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def serving(objects, ranges=True, dies_after=float("inf")):
    """Serve bytes by path. `/status/503` answers 503, as do paths that `refused` maps to it;
    `begun` counts by path the answers that began at the first byte; every answer takes `delay`
    seconds and waits while `opened` is cleared, which ends once `opens_at`, if given, are asked for
    together; `most_at_once` ever were."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.objects, server.ranges, server.dies_after = objects, ranges, dies_after
        server.sent, server.refused, server.begun = 0, {}, Counter()
        server.delay, server.at_once, server.most_at_once = 0.0, 0, 0
        server.counting, server.opened = threading.Lock(), threading.Event()
        server.opened.set()
        server.opens_at = None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()

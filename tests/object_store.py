"""The network's edge: an S3 that keeps objects in memory and honours conditions on PUT."""

import hashlib
import re
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from s3fs import S3FileSystem


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        key, query = self.asked()
        if "list-type" in query:
            return self.list(key, query)
        with self.server.lock:
            data = self.server.objects.get(key)
        if data is None:
            return self.answer(404, _error("NoSuchKey"))
        status, headers = 200, {"ETag": _tag(data), "Last-Modified": formatdate(usegmt=True)}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), int(part[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        return self.answer(status, data, headers)

    def do_PUT(self):
        key, _ = self.asked()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            there = self.server.objects.get(key)
            expected = self.headers.get("If-Match")
            failed = "If-Match" if expected and (there is None or _tag(there) != expected) else None
            if self.headers.get("If-None-Match") and there is not None:
                failed = "If-None-Match"
            if not failed:
                self.server.objects[key] = data
        if failed:
            return self.answer(412, _error("PreconditionFailed", failed))
        return self.answer(200, b"", {"ETag": _tag(data)})

    def do_POST(self):  # DeleteObjects
        key, _ = self.asked()
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        for name in re.findall("<Key>(.*?)</Key>", body):
            self.server.objects.pop(f"{key}/{name}", None)
        return self.answer(200, b"<DeleteResult></DeleteResult>")

    def list(self, bucket, query):
        prefix = query.get("prefix", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        entries, folders = "", set()
        with self.server.lock:
            objects = sorted(self.server.objects.items())
        for name, data in objects:
            key = name.removeprefix(f"{bucket}/")
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            entries += (
                f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>{_tag(data)}</ETag>"
                "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        entries += "".join(
            f"<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>" for f in folders
        )
        found = len(folders) + entries.count("<Key>")
        body = f"<ListBucketResult><KeyCount>{found}</KeyCount>{entries}</ListBucketResult>"
        self.answer(200, body.encode())

    def asked(self):
        parts = urlsplit(self.path)
        return unquote(parts.path).strip("/"), parse_qs(parts.query, keep_blank_values=True)

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _error(code: str, condition: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Condition>{condition}</Condition></Error>".encode()


@contextmanager
def object_store(monkeypatch):
    """Serve S3 to this process; gives the objects."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.objects, server.lock = {}, threading.Lock()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # s3fs keeps one client for all endpoints that the environment may name
        S3FileSystem.clear_instance_cache()
        try:
            yield server.objects
        finally:
            S3FileSystem.clear_instance_cache()
            server.shutdown()

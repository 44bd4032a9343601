"""A Hugging Face Hub over HTTP: download routes, gates, revisions, large files, accidents."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LARGE = 1000  # bytes: larger files lie elsewhere, behind a signed URL


@dataclass
class Repository:
    """Files by path, of each branch or tag; who may read them."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False
    tokens: set[str] = field(default_factory=lambda: {"hf_good"})

    def find(self, revision):
        """(commit, files) of a branch, tag or commit; None if there is none."""
        for name, files in self.revisions.items():
            content = json.dumps({path: _sha256(data) for path, data in files.items()})
            commit = hashlib.sha1(f"{name} {content}".encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _etag(data: bytes) -> str:
    if len(data) > LARGE:
        return _sha256(data)
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class HubServer:
    """Serves `repositories` at `url`; `seen` holds (method, path, headers) of each request.

    `cuts` is how many of the next downloads of large files break off after `cut_after` bytes;
    `damage` changes a byte of what is sent.
    """

    def __init__(self, repositories: dict[str, Repository]):
        self.repositories = repositories
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.cuts, self.cut_after, self.ranges, self.damage = 0, 0, True, False
        self.status: int | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                headers = {name.title(): value for name, value in self.headers.items()}
                server.seen.append((self.command, unquote(self.path), headers))
                server._answer(self, self.path)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._store = ThreadingHTTPServer(("127.0.0.1", 0), Handler)  # another host, as far as
        self.url = f"http://127.0.0.1:{self._http.server_port}"  # tokens are concerned
        self.store_url = f"http://127.0.0.1:{self._store.server_port}"
        for one in (self._http, self._store):
            threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        for one in (self._http, self._store):
            one.shutdown()
            one.server_close()

    def downloads(self, path: str) -> list[dict[str, str]]:
        """Headers of each request for the bytes of a large file."""
        return [h for m, p, h in self.seen if m == "GET" and p.startswith("/store") and path in p]

    # -- routes ----------------------------------------------------------------------------

    def _answer(self, request, path):
        if self.status is not None:
            return _send(request, self.status, b"not now")
        parts = unquote(path.partition("?")[0]).strip("/").split("/")
        if parts[0] == "store":
            return self._bytes(request, parts)
        if parts[:2] == ["api", "models"]:
            repository = self._open(request, "/".join(parts[2:4]))
            if repository is None:
                return None
            found = repository.find(parts[5] if parts[4:5] == ["revision"] else "main")
            if found is None:
                return _send(request, 404, **_code("RevisionNotFound"))
            commit, files = found
            siblings = [{"rfilename": name} for name in files]
            body = {"id": "/".join(parts[2:4]), "sha": commit, "siblings": siblings}
            return _send(request, 200, json.dumps(body).encode())
        if len(parts) < 5 or parts[2] != "resolve":
            return _send(request, 404)
        repository = self._open(request, "/".join(parts[:2]))
        if repository is None:
            return None
        found = repository.find(parts[3])
        if found is None:
            return _send(request, 404, **_code("RevisionNotFound"))
        commit, files = found
        name = "/".join(parts[4:])
        headers = {"X-Repo-Commit": commit}
        if name not in files:
            return _send(request, 404, **_code("EntryNotFound"), **headers)
        data = files[name]
        if len(data) > LARGE:
            headers |= {"X-Linked-Etag": f'"{_etag(data)}"', "X-Linked-Size": str(len(data))}
            location = f"{self.store_url}/store/{'/'.join(parts[:2])}/{commit}/{name}"
            return _send(request, 302, Location=location, **headers)
        return _send(request, 200, data, ETag=f'"{_etag(data)}"', **headers)

    def _open(self, request, name):
        repository = self.repositories.get(name)
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and (repository is None or token not in repository.tokens):
            invalid = "Invalid credentials in Authorization header"
            _send(request, 401, **{"X-Error-Message": invalid})
        elif repository is None or (repository.private and not token):
            _send(request, 401, **_code("RepoNotFound"))
        elif repository.gated and not token:
            _send(request, 401, **_code("GatedRepo"))
        else:
            return repository
        return None

    def _bytes(self, request, parts):
        assert "Authorization" not in request.headers, "a token went to another host"
        _, files = self.repositories["/".join(parts[1:3])].find(parts[3])
        data = files["/".join(parts[4:])]
        start = 0
        if self.ranges and (wanted := request.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if self.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        data = data[start:]
        if self.cuts > 0:
            self.cuts -= 1
            data = data[: self.cut_after]
            request.close_connection = True
        if request.command == "GET":
            request.wfile.write(data)


def _code(code: str) -> dict[str, str]:
    return {"X-Error-Code": code}


def _send(request, status, body=b"", **headers):
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)

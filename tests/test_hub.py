"""Weights arrive from every kind of URI, once, whole and verified."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from raydiar import hub
from raydiar.errors import WeightsNotFound

RTTM = "pypi://pyannote.audio==4.0.7/pyannote/audio/sample/sample.rttm"
RTTM_SHA256 = "d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87"


def test_local_files_and_directories(tmp_path):
    weights = tmp_path / "pytorch_model.bin"
    weights.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert hub.fetch(weights) == weights
    assert hub.fetch(tmp_path, filename="pytorch_model.bin") == weights
    assert hub.fetch(f"{weights}#sha256={digest}") == weights
    with pytest.raises(WeightsNotFound, match="expected SHA-256"):
        hub.fetch(f"{weights}#sha256={'0' * 64}")
    with pytest.raises(WeightsNotFound, match=r"other\.bin does not exist"):
        hub.fetch(tmp_path, filename="other.bin")
    with pytest.raises(WeightsNotFound, match="no such file"):
        hub.fetch(str(tmp_path / "nowhere.bin"))


def test_one_download_for_concurrent_processes(tmp_path):
    log = tmp_path / "pip.log"
    environment = {**os.environ, "RAYDIAR_CACHE": str(tmp_path / "cache"), "PIP_LOG": str(log)}
    code = f"from raydiar import hub; print(hub.fetch({RTTM + '#sha256=' + RTTM_SHA256!r}))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    paths = {process.communicate(timeout=120)[0].decode().strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    [path] = paths
    assert hub.sha256_of(path) == RTTM_SHA256
    assert log.read_text().count("Saved ") == 1


def test_damaged_cache_is_repaired(tmp_path):
    uri = f"{RTTM}#sha256={RTTM_SHA256}"
    path = hub.fetch(uri, cache_dir=tmp_path)
    path.write_text("half a fi")
    assert hub.sha256_of(hub.fetch(uri, cache_dir=tmp_path)) == RTTM_SHA256


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pypi://pyannote.audio==4.0.7/pyannote/no/such/file", "holds no file"),
        ("pypi://pyannote.audio==4.0.7/../../escape", "inside the wheel"),
        ("pypi://pyannote.audio/no-version", "expected pypi://"),
        (f"{RTTM}#sha256={'0' * 64}", "expected SHA-256"),
        (f"{RTTM}#sha256=short", "64 hexadecimal digits"),
        ("pypi://raydiar-no-such-distribution==1.0/file", "could not download"),
    ],
)
def test_wheels_that_do_not_hold_what_is_asked(uri, message, tmp_path):
    with pytest.raises(WeightsNotFound, match=message):
        hub.fetch(uri, cache_dir=tmp_path)


def test_any_fsspec_uri(tmp_path):
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/models/net/pytorch_model.bin", b"one")
    path = hub.fetch("memory://models/net/pytorch_model.bin", cache_dir=tmp_path)
    assert path.read_bytes() == b"one"
    # A directory there, and an object replaced under its name.
    filesystem.pipe_file("/models/net/pytorch_model.bin", b"another")
    path = hub.fetch("memory://models/net", filename="pytorch_model.bin", cache_dir=tmp_path)
    assert path.read_bytes() == b"another"
    with pytest.raises(WeightsNotFound, match="memory://"):
        hub.fetch("memory://models/none.bin", cache_dir=tmp_path)


class _Hub(BaseHTTPRequestHandler):
    """The few answers of the Hugging Face Hub that a download needs."""

    content = b"weights of the hub"
    seen: list = []  # noqa: RUF012

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        self.seen.append((self.path, self.headers.get("Authorization")))
        gated = self.path.startswith("/org/gated") and not self.headers.get("Authorization")
        self.send_response(401 if gated else 200)
        if gated:
            self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", '"' + hashlib.sha256(self.content).hexdigest() + '"')
        self.send_header("Content-Length", str(0 if gated else len(self.content)))
        self.end_headers()
        if body and not gated:
            self.wfile.write(self.content)

    def log_message(self, *args):
        pass


def test_hugging_face_hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = """
from raydiar import hub
from raydiar.errors import WeightsNotFound
print(hub.fetch("hf://org/model@v2/sub/pytorch_model.bin").read_text())
print(hub.fetch("org/gated", filename="pytorch_model.bin", token="hf_secret").read_text())
try:
    hub.fetch("org/gated", filename="other.bin", token=False)
except WeightsNotFound as error:
    print(error)
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
    }
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    server.shutdown()
    lines = result.stdout.splitlines()
    assert lines[:2] == ["weights of the hub"] * 2, result.stderr
    assert "org/gated is gated" in lines[2]
    paths = {path for path, _ in _Hub.seen}
    assert "/org/model/resolve/v2/sub/pytorch_model.bin" in paths
    assert ("/org/gated/resolve/main/pytorch_model.bin", "Bearer hf_secret") in _Hub.seen


def test_offline_hub_says_what_to_do(tmp_path):
    code = "from raydiar import hub; hub.fetch('org/absent', filename='config.yaml')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "WeightsNotFound: org/absent/config.yaml is not in the local cache" in result.stderr

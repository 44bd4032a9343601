"""What opens a URL stays with who gave it: requested byte for byte, written nowhere."""

import base64
import http.server
import io
import tarfile
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from corpus_files import write_manifest
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.corpus.output import dataset
from raydiar.errors import AudioNotFound
from raydiar.serving.logs import get_logger
from raydiar.storage import open_source

SECRET = "5ec4e7"
# as AWS, Azure and others sign, with escapes that a careless client rewrites
QUERY = (
    "X-Amz-Credential=AKIA5ec4e7%2F20261125%2Fus-east-1%2Fs3%2Faws4_request&sig=a%7E5ec4e7%2Bb%3D"
    "&x=%C3%BC&X-Amz-Signature=5ec4e7"
)


class Signed(http.server.BaseHTTPRequestHandler):
    """Serves only who asks with every byte of the signature, or with user and password."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        user = f"Basic {base64.b64encode(b'anna:5ec4e7').decode()}"
        self.server.asked.append(self.path)
        allowed = query in self.server.queries or self.headers.get("Authorization") == user
        body = self.server.objects.get(path) if allowed else b""
        status = 403 if not allowed else 404 if body is None else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def signed(talk):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("a.wav", "broken.wav"):
            member = tarfile.TarInfo(name)
            data = talk if name == "a.wav" else b"no sound"
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Signed) as server:
        server.objects = {
            "/calls/My%20call.wav": talk,
            "/calls/broken.mp3": b"no sound" * 100,
            "/calls/shard.tar": tar.getvalue(),
        }
        server.queries, server.asked = {QUERY}, []
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(*arguments, code=0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    told = result.output + (result.stderr if result.stderr not in result.output else "")
    assert result.exit_code == code, told + repr(result.exception)
    return told + repr(result.exception)


def everything_below(folder: Path) -> str:
    """All text of all files, of Parquet also what is compressed."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path.name)
            found.append(path.read_bytes().decode("latin-1"))
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                found += [str(table.schema.metadata), str(table.to_pylist())]
    return "\n".join(found)


def test_what_a_server_logs_holds_no_secret(caplog):
    logger = get_logger("raydiar.serving.tried")
    try:
        try:
            raise FileNotFoundError(f"https://host/a.wav?{QUERY}")
        except FileNotFoundError as error:
            raise AudioNotFound("gone") from error
    except AudioNotFound:
        logger.exception("asked for %s", f"https://host/a.wav?{QUERY}")
    assert "https://host/a.wav" in caplog.text
    assert "Traceback" in caplog.text
    assert SECRET not in caplog.text


def test_a_url_is_requested_byte_for_byte(signed, talk):
    with open_source(f"{signed.url}/calls/My%20call.wav?{QUERY}") as reader:
        assert reader.read() == talk
    with open_source(f"{signed.url}/calls/My call.wav?{QUERY}#t=1") as reader:
        assert reader.read() == talk


def test_no_output_of_a_job_holds_a_secret(local_ray, signed, tmp_path, capfd):
    calls = f"{signed.url}/calls"
    closed = "http://anna:5ec4e7@127.0.0.1:9/closed.wav"
    uris = [
        *(f"{calls}/My%20call.wav?{QUERY}", f"{calls}/broken.mp3?{QUERY}"),
        *(f"{calls}/absent.wav?{QUERY}", f"{calls}/shard.tar?{QUERY}"),
        f"http://anna:5ec4e7@127.0.0.1:{signed.server_address[1]}/calls/broken.mp3?v=2",
    ]
    manifest = write_manifest(tmp_path / "m.jsonl", [{"uri": uri} for uri in uris[:4]])
    made = tmp_path / "made"
    output = made / "output"
    diarize = ["corpus", "diarize", "--manifest", manifest, "--output", output, "--device", "cpu"]
    told = run(*diarize, "--keep-local", made / "kept")
    assert {(row["recording_id"], row["uri"], row["status"]) for row in rows(output)} == {
        (f"{calls}/My%20call.wav", f"{calls}/My%20call.wav", "ok"),
        (f"{calls}/broken.mp3", f"{calls}/broken.mp3", "error"),
        (f"{calls}/absent.wav", f"{calls}/absent.wav", "error"),
        (f"{calls}/shard.tar#a.wav", f"{calls}/shard.tar#a.wav", "ok"),
        (f"{calls}/shard.tar#broken.wav", f"{calls}/shard.tar#broken.wav", "error"),
    }
    assert {path.partition("?")[2] for path in signed.asked} == {QUERY}  # by every reader of a job
    # signed anew, they are the recordings that they were
    again = QUERY.replace("X-Amz-Signature=5ec4e7", "X-Amz-Signature=5ec4e70")
    signed.queries = {again}
    resigned = [{"uri": uri.replace(QUERY, again)} for uri in uris[:4]]
    write_manifest(tmp_path / "m.jsonl", resigned)
    told += (nothing := run(*diarize))
    assert "0 recordings processed" in nothing

    told += run("corpus", "status", output) + run("corpus", "status", output, "--json")
    for form, name in (("rttm", "r"), ("csv", "c.csv"), ("json", "j.json"), ("turns", "t.parquet")):
        told += run("corpus", "export", output, f"--{form}", made / name)
    index = made / "index"
    told += run("voiceprint", "build", index, output) + run("voiceprint", "info", index)
    speaker = ["--recording", f"{calls}/My%20call.wav", "--speaker", "SPEAKER_00"]
    told += run("voiceprint", "search", index, *speaker)
    told += run("voiceprint", "delete", index, uris[0], code=1)

    # at the command's own door; and a manifest, an output and weights that are secrets themselves
    told += run("diarize", f"{calls}/My%20call.wav?{again}", uris[1], uris[4], closed, code=1)
    told += run("diarize", tmp_path, "--pipeline", f"{calls}/p/config.yaml?{QUERY}", code=1)
    told += run("corpus", "diarize", "--manifest", f"{calls}/m.csv?{QUERY}", *diarize[4:], code=1)
    told += run("corpus", "status", f"http://anna:5ec4e7@127.0.0.1:9/x?{QUERY}", code=1)
    told += "".join(capfd.readouterr())
    for place in (told, everything_below(made)):
        at = place.find(SECRET)
        assert at < 0, place[max(0, at - 500) : at + 100]
    assert "SPEAKER My_call 1 " in told
    assert "core_worker" not in told  # Ray's red line in a run in which nothing is wrong


def rows(output: Path) -> list[dict]:
    return dataset.open(str(output)).to_table().to_pylist()

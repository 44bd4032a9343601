"""What a corpus of a million recordings costs beside its audio: seconds and memory per million.

    python benchmarks/listing.py [--rows N] [--json FILE]

A made-up bucket is listed over HTTP, each answer of a thousand keys taking 100 ms as it does on S3;
an S3 Inventory and a Parquet listing of as many objects are taken; the manifest is read, checked
and planned; a dataset of as many rows, 100 a file, is inventoried without an index and with one.
Each step runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import time
from bisect import bisect_right
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from peer import BENCH

from raydiar.corpus.inputs.manifest import read_manifest
from raydiar.corpus.inputs.sources import write_manifest
from raydiar.corpus.job.bookkeeping import new_run
from raydiar.corpus.output import dataset, row_index
from raydiar.storage.folder import Folder

LATENCY = 0.1  # s of an answer
ROWS_OF_FILE = 100


def key(n: int) -> str:
    return f"podcasts/{n % 5000:04d}/{n:09d}.mp3"


class Bucket(BaseHTTPRequestHandler):
    """Answers list requests for made-up keys."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(404, b"")

    def do_GET(self):
        asked = {name: value[0] for name, value in parse_qs(urlsplit(self.path).query).items()}
        time.sleep(LATENCY)
        keys, prefix = self.server.keys, asked.get("prefix", "")
        most = int(asked.get("max-keys", 1000))
        after = asked.get("continuation-token") or asked.get("start-after", "")
        first = bisect_right(keys, max(after, prefix))
        page = [k for k in keys[first : first + most] if k.startswith(prefix)]
        more = len(page) == most
        body = "".join(
            f"<Contents><Key>{k}</Key><Size>28800000</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{body}"
        self.answer(200, f"{text}</ListBucketResult>".encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(number: int, port) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        server.keys = sorted(map(key, range(number)))
        port.send(server.server_port)
        server.serve_forever()


def list_bucket(home: Path, number: int) -> None:
    assert write_manifest("s3://corpus/podcasts", str(home / "m.parquet")) == number


def take_inventory(home: Path, number: int) -> None:
    manifest = home / "inventory/2026/manifest.json"
    assert write_manifest(str(manifest), str(home / "i.parquet")) == number


def take_table(home: Path, number: int) -> None:
    assert write_manifest(str(home / "table.parquet"), str(home / "t.parquet")) == number


def plan_all(home: Path, number: int) -> None:
    plan(home, number, np.empty(0, "S16"))


def plan_nothing(home: Path, number: int) -> None:
    """A second run, of which every recording is done."""
    inventory = dataset.Inventory.read(Folder(str(home / "out")))
    plan(home, 0, inventory.done)


def plan(home: Path, expected: int, done: np.ndarray) -> None:
    from raydiar.corpus.inputs.plan import plan_folder, write_plan

    output, run = Folder(str(home / "out")), new_run()
    recordings = read_manifest(str(home / "m.parquet"), lambda uri: 1)
    made = write_plan(recordings, done, output, run)
    assert made.num_recordings == expected
    output.delete(plan_folder(run))


def inventory(home: Path, number: int) -> None:
    assert len(dataset.Inventory.read(Folder(str(home / "out"))).done) == number


def index(home: Path, number: int) -> None:
    output = Folder(str(home / "out"))
    row_index.update_index(output, dataset.Inventory.read(output).indexed)


STEPS = [list_bucket, take_inventory, take_table, plan_all, inventory, index, inventory]
STEPS += [plan_nothing]


def measured(step, home: Path, number: int) -> dict:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    step(home, number)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mib": peak / 1024, "more_mib": (peak - before) / 1024}


def make_listings(home: Path, number: int) -> None:
    keys = [key(n) for n in range(number)]
    columns = {"bucket": ["corpus"] * number, "key": keys, "size": [28_800_000] * number}
    pq.write_table(pa.table(columns), home / "table.parquet")
    data = home / "inventory/data"
    data.mkdir(parents=True)
    (home / "inventory/2026").mkdir()
    shutil.copy(home / "table.parquet", data / "0.parquet")
    digest = hashlib.md5((data / "0.parquet").read_bytes()).hexdigest()
    manifest = {
        "destinationBucket": "arn:aws:s3:::inventories",
        "fileFormat": "Parquet",
        "fileSchema": "message s3.inventory { ... }",
        "files": [{"key": "x/data/0.parquet", "MD5checksum": digest}],
    }
    (home / "inventory/2026/manifest.json").write_text(json.dumps(manifest))


def make_dataset(home: Path, number: int) -> None:
    """Files of rows as write tasks leave them, of ids that the listing has."""
    output = Folder(str(home / "out"))
    schema = dataset.dataset_schema(4)
    dataset.write_schema(output, schema)
    empty = pa.table({field.name: pa.nulls(ROWS_OF_FILE, field.type) for field in schema})
    os.makedirs(output.path(), exist_ok=True)
    for start in range(0, number, ROWS_OF_FILE):
        ids = [f"s3://corpus/{key(n)}" for n in range(start, min(number, start + ROWS_OF_FILE))]
        rows = empty.slice(0, len(ids))
        for column, values in (("recording_id", ids), ("uri", ids), ("status", ["ok"] * len(ids))):
            place = rows.schema.get_field_index(column)
            rows = rows.set_column(place, schema.field(column), pa.array(values))
        name = f"ok-20260101T000000-aaaaaa-{dataset.task_of(ids)}.parquet"
        pq.write_table(rows, output.path(name))  # without fsync, which is not what is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    number = arguments.rows
    home = BENCH / "listing"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    spawn = get_context("spawn")
    port, theirs = spawn.Pipe()
    server = spawn.Process(target=serve, args=(number, theirs), daemon=True)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port.recv()}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    make_listings(home, number)
    make_dataset(home, number)
    results = []
    indexed = False
    for step in STEPS:
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            found = process.submit(measured, step, home, number).result()
        name = step.__name__ + (" with the index" if indexed and step is inventory else "")
        indexed = indexed or step is index
        results.append({"step": name, **found})
        per_million = found["seconds"] * 1e6 / number
        print(
            f"  {name:26} {found['seconds']:7.1f} s ({per_million:6.1f} s a million), "
            f"{found['more_mib']:6.0f} MiB more, {found['peak_mib']:.0f} in all",
            flush=True,
        )
    server.terminate()
    server.join()
    one_by_one = number / 1000 * LATENCY
    print(f"  a page after the other, the listing would take {one_by_one:.0f} s or more")
    shutil.rmtree(home)
    if arguments.json:
        result = {"benchmark": "listing", "rows": number, "steps": results}
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

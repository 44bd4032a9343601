"""What goes into a job and what lies in its output, for tests."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq


def write_manifest(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def excerpts(sample_wav, number: int, seconds: float = 5.0) -> list[dict]:
    step = (30 - seconds) / number
    return [
        {"uri": str(sample_wav), "start": round(step * n, 2), "duration": seconds, "take": n}
        for n in range(number)
    ]


def seen(output) -> dict[str, str]:
    """Status of every row that any Parquet reader sees; fails on two rows of one recording."""
    if not files(output):
        return {}
    rows = pq.read_table(output, columns=["recording_id", "status"]).to_pylist()
    by_id = {row["recording_id"]: row["status"] for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def files(output) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(output).glob("*.parquet")}


@contextmanager
def driver(code: str, address: str, log: Path):
    """A job in a process of its own, on the Ray of the tests; killed without grace at the end."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"RAY_ADDRESS": address},
            stdout=file,
            stderr=file,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until(condition, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

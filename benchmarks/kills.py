"""A corpus job that is killed, doubled, stopped and woken: no row may be lost, none doubled.

    python benchmarks/kills.py [--quick] [--kills N] [--where folder|s3|both] [--json FILE]

Three parts, each on a folder and on an S3 server (moto over HTTP, whose clock is six minutes wrong
as is that of every second driver). `kills`: a job over 420 recordings of a second, 120 of them in a
tar, is killed with SIGKILL at random moments, with its own Ray or without the one it shares, and
run again until it ends. `two`: a second driver is started while the first works. `sleep`: the end
of a run that has rows to remove is stopped (SIGSTOP) before each of its steps, another driver takes
the output over and ends, and the first is woken (SIGCONT). Everything is real but the networks:
what they say of one such recording is kept, and given, after a pause, for all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import wave
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from peer import BENCH  # noqa: E402
from s3_server import S3Server  # noqa: E402

from raydiar.corpus import dataset  # noqa: E402
from raydiar.corpus.inputs.manifest import RECORDING_FIELDS  # noqa: E402
from raydiar.diarization import Diarization  # noqa: E402
from raydiar.storage.folder import Folder  # noqa: E402

DRIVER = ROOT / "benchmarks/workers/corpus_driver.py"
CLOCK = 360.0  # s by which clocks are wrong
SILENCE = 6.0  # s, of the lock


def make_corpus(home: Path, number: int, in_tar: int) -> tuple[str, set[str]]:
    """A manifest of short recordings, some in a tar; and the ids that its rows must have."""
    rng = np.random.default_rng(0)
    home.mkdir(parents=True, exist_ok=True)
    rows, ids = [], set()
    with tarfile.open(home / "shard.tar", "w") as tar:
        for n in range(number):
            samples = (rng.normal(0, 2000, 8000) * np.sin(np.arange(8000) / 900 + n)).astype(
                "int16"
            )
            path = home / f"{n:04d}.wav"
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(samples.tobytes())
            if n >= in_tar:
                rows.append({"uri": str(path)})
                ids.add(str(path))
                continue
            data = path.read_bytes()
            member = tarfile.TarInfo(path.name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            ids.add(f"{home / 'shard.tar'}#{path.name}")
    if in_tar:
        rows.insert(len(rows) // 2, {"uri": str(home / "shard.tar")})
    manifest = home / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(manifest), ids


def keep_inference(home: Path) -> None:
    """Keep the default pipeline, and what its networks say of a recording, for the drivers."""
    from raydiar.pipelines.config import DEFAULT
    from raydiar.pipelines.speaker_diarization import local_inference

    pipeline = DEFAULT.localize()
    with wave.open(str(next((home / "corpus").glob("*.wav")))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    [said] = local_inference(pipeline, "cpu")([np.repeat(samples, 2)])  # at 16 kHz
    (home / "tiny.pickle").write_bytes(pickle.dumps((pipeline, said)))


class Output:
    """An output under test, and what must be in it."""

    def __init__(self, uri: str, manifest: str, ids: set[str], log: Path):
        self.uri, self.manifest, self.ids, self.log = uri, manifest, ids, log
        self.most = 0

    def rows(self) -> Counter:
        """Rows as raydiar's reader shows them while anything may be happening, by id."""
        try:
            table = dataset.open(self.uri).to_table(["recording_id", "status"])
        except Exception as error:
            if "holds no diarization dataset" in str(error):
                return Counter()
            raise
        assert set(table["status"].to_pylist()) <= {"ok"}, "error rows"
        return Counter(table["recording_id"].to_pylist())

    def check(self) -> int:
        """Rows there are; none doubled to raydiar's reader, and never fewer than before."""
        rows = self.rows()
        assert max(rows.values(), default=1) == 1, "doubled"
        assert len(rows) >= self.most, f"{self.most - len(rows)} rows lost"
        self.most = len(rows)
        return len(rows)

    def check_end(self) -> None:
        """Exactly one row a recording to any Parquet reader."""
        folder = Folder(self.uri)
        found: Counter = Counter()
        for name in folder.list():
            table = pq.read_table(pa.BufferReader(folder.read(name)), columns=["recording_id"])
            found.update(table["recording_id"].to_pylist())
        lost, doubled = self.ids - set(found), [i for i, n in found.items() if n > 1]
        assert not lost, f"{len(lost)} lost"
        assert not doubled, f"{len(doubled)} doubled"
        assert set(found) == self.ids

    @contextmanager
    def driver(self, address: str | None, **options):
        """A job in a process, and session, of its own; killed with all of it at the end."""
        asked = {"manifest": self.manifest, "output": self.uri, "silence": SILENCE} | options
        asked["tiny"] = str(self.log.with_name("tiny.pickle"))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        if address:
            environment["RAY_ADDRESS"] = address
        with self.log.open("a") as file:
            process = subprocess.Popen(
                [sys.executable, DRIVER, json.dumps(asked)],
                env=environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                kill_session(process)

    def holder(self) -> str | None:
        from raydiar.storage.lock import holder_of

        return holder_of(Folder(self.uri))


def kill_session(process: subprocess.Popen) -> None:
    """SIGKILL a driver and all that it started; Ray's daemons have sessions of their own."""
    mine = {process.pid}
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
        except OSError:
            continue
    while more := {child for child, parent in parents.items() if parent in mine} - mine:
        mine |= more
    for pid in mine:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def kills(
    output: Output,
    address: str,
    number: int,
    rng: random.Random,
    with_rays=range(0, 100, 4),
    pause: float = 0.4,
) -> dict:
    """Kill drivers at random moments, after some more rows or some time; then let one end."""
    killed, seconds = [], time.monotonic()
    per_kill = max(1, len(output.ids) // (number + 2))
    while len(killed) < number:
        with_ray = len(killed) in with_rays  # each starts a Ray of its own
        clock = CLOCK * (len(killed) % 2)
        before = output.check()
        options = {"pause": pause, "clock": clock}
        with output.driver(None if with_ray else address, **options) as process:
            after_rows = before + rng.randrange(0, 2 * per_kill)
            after_seconds = rng.uniform(1, 60)
            begun = time.monotonic()
            held = None
            while process.poll() is None:
                held = held or (output.holder() and time.monotonic())
                enough = output.check() > after_rows
                if held and (enough or time.monotonic() - held > after_seconds):
                    break
                time.sleep(0.2)
            if process.poll() is not None:
                assert process.returncode == 0, f"a driver failed: see {output.log}"
                print(f"  ended before kill {len(killed) + 1}", flush=True)
                break
        killed.append(output.check() - before)
        print(
            f"  kill {len(killed)} {'with its Ray' if with_ray else 'of the driver'} after "
            f"{time.monotonic() - begun:.0f} s: {before} -> {output.most} rows",
            flush=True,
        )
    with output.driver(address) as process:
        assert process.wait(900) == 0, f"the last driver failed: see {output.log}"
    output.check()
    output.check_end()
    return {"kills": len(killed), "seconds": time.monotonic() - seconds, "rows": killed}


def two(output: Output, address: str) -> dict:
    """A second driver while the first works: refused in one line, and nothing is disturbed."""
    gate = output.log.with_suffix(".gate")  # behind which the first waits until the second is gone
    with output.driver(address, gate=str(gate)) as first:
        while output.holder() is None:
            assert first.poll() is None
            time.sleep(0.1)
        with output.driver(address, clock=CLOCK) as second:
            code = second.wait(300)
        assert code != 0, "both wrote"
        assert "is being written by run" in output.log.read_text()
        gate.touch()
        assert first.wait(900) == 0
    output.check_end()
    return {"refused": True}


def sleep(output: Output, make_work, quick: bool) -> dict:
    """Stop the end of a run before each of its steps, let another end, and wake the first."""
    step, steps, ends = 0, None, Counter()
    while steps is None or step < steps:
        step += 1 if not quick else 9
        make_work()
        with output.driver("local", stop_at=step) as first:
            while first.poll() is None and not is_stopped(first.pid):
                time.sleep(0.05)
            if first.poll() is not None:  # it has no such step
                assert first.returncode == 0
                output.check_end()
                steps = step
                break
            with output.driver("local", clock=CLOCK) as second:
                assert second.wait(300) == 0, f"step {step}: see {output.log}"
            output.check()
            os.kill(first.pid, signal.SIGCONT)
            ends["stopped writing" if first.wait(300) else "ended"] += 1
        output.check()
        with output.driver("local") as last:
            assert last.wait(300) == 0
        output.check_end()
        print(f"  step {step}: nothing lost, nothing doubled", flush=True)
    return {"steps": step - 1, "woken": dict(ends)}


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def make_output(output: Output) -> None:
    """All rows of a manifest of files, as a job leaves them, so that nothing but the end is run."""
    pipeline, _ = pickle.loads(output.log.with_name("tiny.pickle").read_bytes())
    made_by = pipeline.describe()
    schema = dataset.dataset_schema(pipeline.dimension, None, made_by)
    folder = Folder(output.uri)
    dataset.write_schema(folder, schema)
    rows = []
    for name in sorted(output.ids):
        recording = dict.fromkeys(RECORDING_FIELDS.names) | {"recording_id": name, "uri": name}
        rows.append(dataset.ok_row(recording, Diarization(name, 1.0, (), (), ()), made_by))
    for start in range(0, len(rows), 6):
        table = pa.Table.from_pylist(rows[start : start + 6], schema)
        dataset.publish_rows(folder, "20260101T000000-aaaaaa", "ok", table)


def more_work(output: Output) -> None:
    """Double some rows of an output, as later runs that did not see them would have."""
    folder = Folder(output.uri)
    names = [name for name in folder.list() if name.startswith("ok-")]
    for number, name in enumerate(names[:3]):
        table = pq.read_table(pa.BufferReader(folder.read(name)))
        part = table.slice(0, max(1, len(table) // 2))
        other = pq.read_table(pa.BufferReader(folder.read(names[-1])))
        both = pa.concat_tables([part, other.slice(0, 1)])
        dataset.publish_rows(folder, f"20990101T00000{number}-aaaaaa", "ok", both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="40 recordings, 3 kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--where", choices=("folder", "s3", "both"), default="both")
    parser.add_argument("--parts", default="kills,two,sleep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    number, num_kills = (40, 3) if arguments.quick else (420, arguments.kills)
    home = BENCH / f"kills-{os.getpid()}"
    manifest, ids = make_corpus(home / "corpus", number, in_tar=number * 2 // 7)

    keep_inference(home)
    s3 = S3Server()
    s3.start_backend()
    s3.clock = CLOCK
    os.environ |= {
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
    parts = arguments.parts.split(",")
    address = None
    if parts != ["sleep"]:  # where nothing is left to do, Ray is never started
        import ray

        options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        address = ray.init("local", num_cpus=3, **options).address_info["address"]
    results = {}
    places = ("folder", "s3") if arguments.where == "both" else (arguments.where,)
    try:
        for place in places:
            if place == "s3":
                s3.make("out", "some-key", [Path(__file__)])
            root = str(home / "out") if place == "folder" else "s3://out"
            found = results[place] = {}
            for part in parts:
                output = Output(f"{root}/{part}", manifest, ids, home / f"{place}-{part}.log")
                print(f"{place}, {part}: {number} recordings", flush=True)
                if part == "kills":
                    rng = random.Random(arguments.seed)
                    found[part] = kills(output, address, num_kills, rng)
                elif part == "two":
                    found[part] = two(output, address)
                else:
                    output.manifest, output.ids = make_corpus(home / "files", 42, in_tar=0)
                    make_output(output)
                    found[part] = sleep(output, lambda o=output: more_work(o), arguments.quick)
                print(f"  {json.dumps(found[part])}: 0 lost, 0 doubled", flush=True)
    finally:
        if address:
            ray.shutdown()
        s3.close()
    shutil.rmtree(home)  # what failed is left, with its logs
    if arguments.json:
        arguments.json.write_text(json.dumps({"benchmark": "kills", **results}, indent=2))


if __name__ == "__main__":
    main()

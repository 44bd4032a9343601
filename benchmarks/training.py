"""How fast training is: against the same network in a bare PyTorch loop, and pyannote.audio's.

Hours of audio an hour, and the share of the time that waits for data. The bare loop has its batches
in memory: what it is faster by is all that reading, augmentation-free collation, logging and
Lightning cost. All take turns in one run; medians of the rounds are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from adaptation import Material
from peer import pyannote_python

from raydiar.models import Model
from raydiar.pipelines.config import DEFAULT
from raydiar.training.config import TrainingConfig
from raydiar.training.exporting import write_pyannote
from raydiar.training.index import build_index
from raydiar.training.losses import powerset_loss
from raydiar.training.run import train
from raydiar.training.sources import RecordedWindows
from raydiar.training.tasks import SpeakerDiarization

HERE = Path(__file__).parent


def write_data(folder: Path, number: int) -> Path:
    material = Material()
    simulator = material.simulator(0, "far-field", 60.0, (2, 4))
    rows = ["uri,rttm"]
    for n in range(number):
        audio, labels = simulator.simulate(n, uri=f"talk{n}").write(folder)
        rows.append(f"{audio},{labels}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return folder / "train.csv"


def network():
    return Model.from_pretrained(DEFAULT.segmentation.uri)


def bare(source, steps: int, batch_size: int) -> float:
    """Windows a second of forward, loss, backward and AdamW, with batches in memory."""
    model = network().train()
    task = SpeakerDiarization(source, max_speakers_per_chunk=3)
    task.attach(model)
    batches = [
        task.collate([source.example(step * batch_size + n) for n in range(batch_size)])
        for step in range(steps)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    begun = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        output = model(batch["X"])
        total, count = powerset_loss(output, batch["y"], task.mapping(output))
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return steps * batch_size / (time.perf_counter() - begun)


def ours(source, steps: int, batch_size: int) -> tuple[float, float]:
    """Windows a second, and the share of the time that waits, of `train`."""
    task = SpeakerDiarization(source, max_speakers_per_chunk=3)
    config = TrainingConfig(
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=1e-4,
        checkpoint_every=steps + 1,
        log_every=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(network(), task, folder, config, device="cpu", quiet=True)
    return outcome.windows_per_second, outcome.wait_share


def theirs(python: Path, folder: Path, steps: int, batch_size: int, threads: int) -> float:
    """Windows a second of pyannote.audio's own trainer."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYANNOTE_METRICS_ENABLED": "0"}
    command = [python, HERE / "workers/pyannote_training.py", folder, str(steps), str(batch_size)]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"pyannote.audio's trainer failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])["windows_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=20, help="of a minute")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peer", action="store_true", help="without pyannote.audio")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.rounds, arguments.no_peer = 2, 1, True
        arguments.conversations = 2
    torch.set_num_threads(arguments.threads)
    found = {"bare": [], "raydiar": [], "waits": [], "pyannote": []}
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_data(Path(folder), arguments.conversations)
        source = RecordedWindows(build_index(str(manifest), Path(folder) / "index"), 10.0)
        write_pyannote(network(), Path(folder) / "parent.ckpt")
        python = None if arguments.no_peer else pyannote_python()
        for _ in range(arguments.rounds):
            size = arguments.steps, arguments.batch_size
            found["bare"].append(bare(source, *size))
            speed, waits = ours(source, *size)
            found["raydiar"].append(speed)
            found["waits"].append(waits)
            if python is not None:
                found["pyannote"].append(theirs(python, Path(folder), *size, arguments.threads))
    middle = {name: statistics.median(values) for name, values in found.items() if values}
    ratios = [a / b for a, b in zip(found["raydiar"], found["bare"], strict=True)]
    print(f"bare PyTorch loop    {10 * middle['bare']:6.1f} h of audio an hour")
    print(
        f"raydiar              {10 * middle['raydiar']:6.1f} h of audio an hour, "
        f"{100 * statistics.median(ratios):.0f} % of the bare loop's; "
        f"waits for data {100 * middle['waits']:.1f} % of the time"
    )
    if "pyannote" in middle:
        print(f"pyannote.audio 4.0.7 {10 * middle['pyannote']:6.1f} h of audio an hour")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"rounds": found, "median": middle}, indent=2))


if __name__ == "__main__":
    main()

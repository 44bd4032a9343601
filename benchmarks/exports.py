"""Whether exports give the same outputs elsewhere: in pyannote.audio 4.0.7, and in onnxruntime.

python benchmarks/exports.py

Each network is made, exported as `raydiar train export` does, loaded by the real library in its own
environment, and run on the same 3 windows. The largest difference is printed; the command fails
above 1e-5 (pyannote.audio) or 1e-4 (ONNX, with batches of 1 and 3 and windows of two lengths).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from peer import pyannote_python

from raydiar.audio import SAMPLE_RATE
from raydiar.models import Model
from raydiar.pipelines.config import DEFAULT
from raydiar.training.exporting import export, to_safetensors

HERE = Path(__file__).parent
NETWORKS = {
    "segmentation-3.0": lambda: Model.from_pretrained(DEFAULT.segmentation.uri),
    "PyanNet": lambda: Model.custom("PyanNet"),
    "WeSpeakerResNet34": lambda: Model.custom("WeSpeakerResNet34"),
    "XVectorSincNet": lambda: Model.custom("XVectorSincNet"),
}


def largest(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    return float(np.abs(one - other).max())


def ours(model, waves: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(waves)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    python, rng = pyannote_python(), np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, make in NETWORKS.items():
            torch.manual_seed(0)
            model = make().eval()
            weights = folder / f"{name}.safetensors"
            weights.write_bytes(to_safetensors(model))
            waves = (0.1 * rng.standard_normal((3, 1, 5 * SAMPLE_RATE))).astype(np.float32)
            np.save(folder / "waves.npy", waves)
            theirs = export(weights, "pyannote", folder / f"{name}.ckpt")
            command = [python, HERE / "workers/pyannote_outputs.py", theirs]
            command += [folder / "waves.npy", folder / "outputs.npy"]
            environment = {**os.environ, "PYANNOTE_METRICS_ENABLED": "0"}
            subprocess.run(list(map(str, command)), check=True, env=environment)
            found[name] = {"pyannote": largest(ours(model, waves), np.load(folder / "outputs.npy"))}
            session = onnxruntime.InferenceSession(
                str(export(weights, "onnx", folder / f"{name}.onnx"))
            )
            apart = []
            for batch, seconds in ((1, 3), (3, 5)):
                part = waves[:batch, :, : seconds * SAMPLE_RATE]
                [output] = session.run(None, {"waveforms": part})
                apart.append(largest(ours(model, part), output))
            found[name]["onnx"] = max(apart)
            print(
                f"{name:20} pyannote.audio {found[name]['pyannote']:.1e}   "
                f"ONNX {found[name]['onnx']:.1e}",
                flush=True,
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2))
    assert all(one["pyannote"] <= 1e-5 and one["onnx"] <= 1e-4 for one in found.values())


if __name__ == "__main__":
    main()

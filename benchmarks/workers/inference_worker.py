"""Scores of pyannote.audio's Inference: `inference_worker.py WEIGHTS`, clip in, .npz out."""

import sys

import numpy as np
from pyannote.audio import Inference, Model
from serve import serve

model = Model.from_pretrained(sys.argv[1])


def infer(job: str) -> str:
    path, into, step = job.split("|")
    from raydiar import audio

    waveform = np.asarray(audio.decode(path), np.float32)[None] / 32768
    import torch

    file = {"waveform": torch.from_numpy(waveform), "sample_rate": 16000}
    windows = Inference(model, step=float(step))(file)
    hooked = Inference(
        model, step=float(step), pre_aggregation_hook=lambda s: np.max(s, axis=-1, keepdims=True)
    )(file)
    raw = Inference(model, step=float(step), skip_conversion=True, skip_aggregation=True)(file)
    np.savez(into, windows=windows.data, joined=hooked.data, raw=raw.data)
    return ""


serve(infer)

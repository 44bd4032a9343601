"""Voice activity on either side, or the default diarization: `vad_worker.py SIDE [WEIGHTS]`."""

import sys

import soundfile
import torch
from serve import serve

side, *weights = sys.argv[1:]
if side == "pyannote":
    from pyannote.audio.pipelines import VoiceActivityDetection

    pipeline = VoiceActivityDetection(segmentation=weights[0])
    pipeline.instantiate({"min_duration_on": 0.0, "min_duration_off": 0.0})
elif side == "diarization":
    from raydiar import Pipeline

    pipeline = Pipeline.from_pretrained()
else:
    from raydiar.pipelines import VoiceActivityDetection

    pipeline = VoiceActivityDetection(fast=side == "fast")


def detect(path: str) -> str:
    samples, sample_rate = soundfile.read(path, dtype="float32")
    file = {"waveform": torch.from_numpy(samples)[None], "sample_rate": sample_rate, "uri": "clip"}
    output = pipeline(file)
    return output.to_rttm()


serve(detect)

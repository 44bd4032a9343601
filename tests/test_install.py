"""All dependencies install side by side and import into one process, with or without a GPU."""

import subprocess
import sys

CODE = """
import torch, torchaudio, faiss, lightning, ray.data, ray.train, ray.serve
import av, fsspec, huggingface_hub, numpy, pandas, pyannote.core, pyannote.metrics, pyarrow
import pydantic, rich, s3fs, safetensors, scipy, sklearn, typer
index = faiss.IndexFlatIP(4)
index.add(numpy.eye(4, dtype="float32"))
assert index.search(numpy.eye(4, dtype="float32")[:1], 1)[1].item() == 0
assert torchaudio.functional.resample(torch.zeros(1, 8000), 8000, 16000).shape == (1, 16000)
"""


def test_dependencies_live_together():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

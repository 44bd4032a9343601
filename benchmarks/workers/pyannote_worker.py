"""pyannote.audio's side: `pyannote_worker.py SEGMENTATION EMBEDDING PLDA [--campplus WEIGHTS]`.

The pipeline of speaker-diarization-3.1. Audio is passed in memory, as its documentation advises
for speed. With `--campplus` its embedding is replaced by CAM++ in the usual form of such adapters:
frames under the mask are cut out, speaker by speaker.
"""

import io
import sys

import numpy as np
import soundfile
import torch
from pyannote.audio.pipelines import SpeakerDiarization
from serve import serve


class CutOutCampplus:
    """CAM++ behind the interface of pyannote's embedding: (batch, 1, num_samples) and masks."""

    sample_rate, dimension, metric, min_num_samples = 16000, 192, "cosine", 720

    def __init__(self, weights: str):
        from raydiar.models import Model

        self.model = Model.from_pretrained(weights)

    def to(self, device):
        return self

    @torch.inference_mode()
    def __call__(self, waveforms: torch.Tensor, masks: torch.Tensor | None = None) -> np.ndarray:
        features = self.model.fbank(waveforms.squeeze(1))
        masks = torch.nn.functional.interpolate(masks[:, None], size=features.shape[1])[:, 0] > 0.5
        embeddings = np.full((len(features), self.dimension), np.nan, np.float32)
        for row, (item, mask) in enumerate(zip(features, masks, strict=True)):
            cut = item[mask]
            cut = cut[: max(len(cut) - len(cut) % 25, min(len(cut), 24))]
            if len(cut) >= 3:
                frames = self.model.frames(self.model.normalize(cut[None]))
                embeddings[row] = self.model.pool(frames)[0].numpy()
        return embeddings


segmentation, embedding, plda, *rest = sys.argv[1:]
pipeline = SpeakerDiarization(
    segmentation=segmentation,
    embedding=embedding,
    plda=plda,
    clustering="AgglomerativeClustering",
    embedding_exclude_overlap=True,
    segmentation_batch_size=32,
    embedding_batch_size=32,
)
clustering = {"method": "centroid", "min_cluster_size": 12, "threshold": 0.7045654963945799}
pipeline.instantiate({"clustering": clustering, "segmentation": {"min_duration_off": 0.0}})
if rest:
    pipeline._embedding = CutOutCampplus(rest[1])


def diarize(path: str) -> str:
    samples, sample_rate = soundfile.read(path, dtype="float32")
    file = {"waveform": torch.from_numpy(samples)[None], "sample_rate": sample_rate, "uri": "clip"}
    text = io.StringIO()
    pipeline(file).speaker_diarization.write_rttm(text)
    return text.getvalue()


serve(diarize)

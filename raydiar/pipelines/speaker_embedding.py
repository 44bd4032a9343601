"""Voices as vectors: of waveforms, of recordings, of excerpts, of masked frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pyannote.core import SlidingWindow, SlidingWindowFeature

from raydiar.errors import ConfigError, InvalidSamples
from raydiar.inference.devices import torch_device
from raydiar.inference.numerics import float32_numerics
from raydiar.inference.regions import FrameScorer
from raydiar.inference.sliding import get_model
from raydiar.keywords import check_number, known_keywords
from raydiar.models import Model
from raydiar.models.embedding_network import EmbeddingNetwork
from raydiar.models.pooling import resize_masks
from raydiar.pipelines.files import AudioFile
from raydiar.pipelines.pipeline import Pipeline
from raydiar.weights import CAMPPLUS_ZH_EN

_OTHERS = ("speechbrain/", "nvidia/", "hbredin/")  # of SpeechBrain, NeMo and ONNX
_LENGTH_STEP = 25  # frames: as in diarization, so that one voice gives one vector in both


class PretrainedSpeakerEmbedding:
    """A speaker embedding network, on waveforms.

    Parameters
    ----------
    embedding : Model, str, Path or dict, optional
        Network, or where it is: see `raydiar.inference.sliding.get_model`; CAM++ by default,
        without a token.
    device : str or torch.device, optional
    token, use_auth_token, cache_dir
        As in `Model.from_pretrained`.

    Raises
    ------
    ConfigError
        The network gives no embeddings.

    Attributes
    ----------
    sample_rate : int, Hz
    dimension : int
    metric : str
        "cosine".
    min_num_samples : int
        Of the shortest waveform that has an embedding.
    """

    metric = "cosine"

    @known_keywords
    def __init__(
        self,
        embedding: Model | str | Path | dict | None = None,
        device: str | torch.device | None = None,
        token: str | None = None,
        use_auth_token: str | None = None,
        cache_dir: str | Path | None = None,
    ):
        embedding = CAMPPLUS_ZH_EN.uri if embedding is None else embedding
        if isinstance(embedding, str) and embedding.startswith(_OTHERS):
            raise ConfigError(
                f"{embedding} needs a framework of its own, which raydiar does without: name "
                "pyannote/wespeaker-voxceleb-resnet34-LM or pyannote/embedding, or nothing"
            )
        self.model_ = get_model(embedding, token or use_auth_token, cache_dir)
        if not isinstance(self.model_, EmbeddingNetwork):
            raise ConfigError(
                f"{type(self.model_).__name__} gives scores of frames, not speaker embeddings"
            )
        self.to(device if device is not None else self.model_.device)

    def to(self, device: str | torch.device) -> PretrainedSpeakerEmbedding:
        """Move the network to another device, if there is one."""
        self.device = torch_device(device)
        self.model_.to(self.device)
        return self

    @property
    def sample_rate(self) -> int:
        return self.model_.sample_rate

    @property
    def dimension(self) -> int:
        return self.model_.dimension

    @property
    def min_num_samples(self) -> int:
        return self.model_.min_num_samples

    @torch.inference_mode()
    @float32_numerics()
    def __call__(self, waveforms: torch.Tensor, masks: torch.Tensor | None = None) -> np.ndarray:
        """
        Parameters
        ----------
        waveforms : (batch, 1, num_samples) float32 tensor
        masks : (batch, num_frames) tensor, optional
            Weight of each frame, in [0, 1]. A network that takes its whole input into account
            (CAM++) is given the frames above 0.5.

        Returns
        -------
        embeddings : (batch, dimension) float32
            NaN where there is too little to embed.

        Raises
        ------
        InvalidSamples
            Another shape, or NaN.
        """
        waveforms = torch.as_tensor(waveforms)
        masks = None if masks is None else torch.as_tensor(masks)
        if waveforms.ndim != 3 or waveforms.shape[1] != 1:
            raise InvalidSamples(
                f"expected (batch, 1, num_samples) waveforms, got {tuple(waveforms.shape)}"
            )
        if masks is not None and (masks.ndim != 2 or len(masks) != len(waveforms)):
            raise InvalidSamples(
                f"expected masks of ({len(waveforms)}, num_frames), got {tuple(masks.shape)}"
            )
        if waveforms.shape[-1] < self.min_num_samples:
            return np.full((len(waveforms), self.dimension), np.nan, np.float32)
        if not waveforms.isfinite().all():
            raise InvalidSamples("the waveforms hold NaN or infinity among their samples")
        waveforms = waveforms.to(self.device, torch.float32)
        if masks is not None:
            masks = masks.to(self.device, torch.float32)
            if self.model_.embedding_mode == "cut":
                return self._cut(waveforms, masks)
        return self.model_(waveforms, masks).float().cpu().numpy()

    def _cut(self, waveforms: torch.Tensor, masks: torch.Tensor) -> np.ndarray:
        model = self.model_
        features = model.fbank(waveforms.squeeze(1))
        chosen = resize_masks(masks, features.shape[1]) > 0.5
        embeddings = np.full((len(features), self.dimension), np.nan, np.float32)
        fewest = model.fbank.num_frames(self.min_num_samples)
        for row, (item, mask) in enumerate(zip(features, chosen, strict=True)):
            kept = item[mask]
            if len(kept) >= _LENGTH_STEP:
                kept = kept[: len(kept) - len(kept) % _LENGTH_STEP]
            if len(kept) >= fewest:
                pooled = model.pool(model.frames(model.normalize(kept[None])))
                embeddings[row] = pooled[0].float().cpu().numpy()
        return embeddings


class SpeakerEmbedding(Pipeline):
    """One vector for the voice in a recording.

    Parameters
    ----------
    embedding : Model, str, Path or dict, optional
        CAM++ by default, without a token.
    segmentation : Model, str, Path or dict, optional
        Segmentation network that tells speech from the rest: where it hears nobody counts less.
    window : str
        "whole" for one vector, or "sliding" for one per window.
    duration, step : float, seconds
        Of sliding windows.
    device, token, use_auth_token, cache_dir
        As in `PretrainedSpeakerEmbedding`.
    """

    @known_keywords
    def __init__(
        self,
        embedding: Model | str | Path | dict | None = None,
        segmentation: Model | str | Path | dict | None = None,
        *,
        window: str = "whole",
        duration: float = 3.0,
        step: float = 1.0,
        device: str | torch.device | None = None,
        token: str | None = None,
        use_auth_token: str | None = None,
        cache_dir: str | Path | None = None,
    ):
        token = token or use_auth_token
        if window not in ("whole", "sliding"):
            raise ConfigError(f'window must be "whole" or "sliding", not {window!r}')
        check_number("duration", duration, above=True)
        check_number("step", step, above=True)
        if not 0 < step <= duration:
            raise ConfigError(f"step must be above 0 s and at most the {duration:g} s of a window")
        self._embedding = PretrainedSpeakerEmbedding(embedding, token=token, cache_dir=cache_dir)
        self._scorer = None
        if segmentation is not None:
            model = get_model(segmentation, token, cache_dir)
            self._scorer = FrameScorer(model, lambda scores: scores.amax(-1, keepdim=True))
        self.window = window
        self.duration = duration
        self.step = step
        super().__init__(self._embedding.device if device is None else device)

    def _moved(self) -> None:
        self._embedding.to(self.device)
        if self._scorer is not None:
            self._scorer.model.to(self.device)

    @property
    def dimension(self) -> int:
        return self._embedding.dimension

    @property
    def embedding_mode(self) -> str:
        """How frames are chosen, "masked" or "cut"."""
        return self._embedding.model_.embedding_mode

    def apply(self, file: AudioFile, hook: Callable | None = None):
        """Embed one recording, or the excerpt of it that "start" and "duration" name.

        Returns
        -------
        embedding : (1, dimension) float32, or (num_windows, dimension) SlidingWindowFeature

        Raises
        ------
        InvalidSamples
            Too short to have an embedding.
        """
        samples = file.samples([])
        waveform = torch.from_numpy(np.array(samples, np.float32))[None, None]
        if samples.dtype == np.int16:
            waveform /= 32768
        if waveform.shape[-1] < self._embedding.min_num_samples:
            seconds = self._embedding.min_num_samples / self._embedding.sample_rate
            raise InvalidSamples(f"{file.uri}: shorter than the {seconds:.3f} s that a voice takes")
        if self.window == "sliding":
            return self._sliding(waveform, file)
        masks = None
        if self._scorer is not None:
            # Doubtful frames count little: probabilities to the third power.
            masks = torch.from_numpy(self._scorer(samples).data.T) ** 3
        embedding = self._embedding(waveform, masks)
        if hook is not None:
            hook("embeddings", embedding, file={"uri": file.uri, **file.mapping})
        return embedding

    def _sliding(self, waveform: torch.Tensor, file: AudioFile) -> SlidingWindowFeature:
        if self._scorer is not None:
            raise ConfigError("a segmentation network counts for whole recordings only")
        rate = self._embedding.sample_rate
        size, step = round(self.duration * rate), round(self.step * rate)
        missing = max(0, size - waveform.shape[-1])
        windows = torch.nn.functional.pad(waveform, (0, missing))[0, 0].unfold(0, size, step)
        vectors = [self._embedding(part[:, None]) for part in windows.split(32)]
        place = SlidingWindow(start=file.start, duration=self.duration, step=self.step)
        return SlidingWindowFeature(np.concatenate(vectors), place)

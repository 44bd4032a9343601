"""The architecture of today's best open results: a self-supervised front end under a Conformer.

WavLM (or any of torchaudio's wav2vec 2.0 family), its layers summed under learnt weights, then a
Conformer and powerset classes: J. Han et al., "Leveraging self-supervised learning for speaker
diarization" (DiariZen), ICASSP 2025; A. Gulati et al., "Conformer", Interspeech 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydiar import hub
from raydiar.errors import ConfigError
from raydiar.models.specifications import Specifications
from raydiar.models.sseriouss import SSeRiouSS

CONFORMER = {
    "dimension": 256,
    "num_heads": 4,
    "ffn_dim": 1024,
    "num_layers": 4,
    "depthwise_conv_kernel_size": 31,
    "dropout": 0.1,
}

ENCODERS = {
    "wavlm-base": "WAVLM_BASE",
    "wavlm-base-plus": "WAVLM_BASE_PLUS",
    "wavlm-large": "WAVLM_LARGE",
    "wav2vec2-base": "WAV2VEC2_BASE",
    "wav2vec2-large-xlsr-53": "WAV2VEC2_XLSR53",
    "wav2vec2-large-xlsr-53-english": "WAV2VEC2_XLSR53",
    "hubert-base-ls960": "HUBERT_BASE",
    "hubert-large-ll60k": "HUBERT_LARGE",
}
"""Names by which the public knows front ends, and torchaudio's of the same architecture."""


class SSeRiouSSConformer(SSeRiouSS):
    """Segmentation network: self-supervised front end, Conformer, classifier.

    Parameters
    ----------
    wav2vec, wav2vec_frozen, wav2vec_layer
        See `SSeRiouSS`.
    conformer : dict, optional
        `dimension`, and arguments of torchaudio's Conformer; missing ones are those of DiariZen.
    sample_rate, num_channels, specifications, task
        See `RecurrentNetwork`.
    """

    def __init__(
        self,
        wav2vec: str | Path | Mapping[str, Any] = "WAVLM_BASE",
        wav2vec_frozen: bool = False,
        wav2vec_layer: int = -1,
        conformer: dict | None = None,
        sample_rate: int = 16000,
        num_channels: int = 1,
        specifications: Specifications | None = None,
        task=None,
    ):
        conformer = {**CONFORMER, **(conformer or {})}
        # make_layers below is called before this constructor goes on
        self.__dict__["_conformer"] = conformer
        super().__init__(
            wav2vec,
            wav2vec_frozen,
            wav2vec_layer,
            sample_rate=sample_rate,
            num_channels=num_channels,
            specifications=specifications,
            task=task,
        )
        for name in ("lstm", "linear"):
            self.hparams.pop(name, None)
        self.hparams["conformer"] = conformer

    def make_layers(self, num_features: int, lstm: dict, linear: dict) -> None:
        from torchaudio.models import Conformer

        options = dict(self.__dict__["_conformer"])
        width = options.pop("dimension")
        self.adapter = nn.Sequential(nn.LayerNorm(num_features), nn.Linear(num_features, width))
        # group norms: batches of long windows are small, and batch norms would differ by worker
        self.conformer = Conformer(width, use_group_norm=True, **options)
        self._width = width
        if self.task is None or getattr(self.task, "specifications", None) is not None:
            self.build()

    def scores(self, frames: torch.Tensor) -> torch.Tensor:
        frames = self.adapter(frames)
        lengths = torch.full((len(frames),), frames.shape[1], device=frames.device)
        frames, _ = self.conformer(frames, lengths)
        return self.activation(self.classifier(frames))


def SpeakerDiarization(
    encoder: str | Path | Mapping[str, Any] = "wavlm-base",
    decoder: str = "conformer",
    **options: Any,
) -> SSeRiouSS:
    """A segmentation network on a self-supervised front end, by the front end's public name.

    Parameters
    ----------
    encoder : str, Path or mapping
        E.g. "wavlm-large"; torchaudio's name of one; a file of `config` and `state_dict`; or a
        configuration, for random weights. For a public name its weights are
        `encoders/<name>.pt` in raydiar's cache folder where that file is, else torchaudio
        downloads them.
    decoder : str
        "conformer" or "lstm".
    **options
        Of the network's constructor.

    Raises
    ------
    ConfigError
    """
    networks = {"conformer": SSeRiouSSConformer, "lstm": SSeRiouSS}
    if decoder not in networks:
        raise ConfigError(f"a decoder is one of {', '.join(networks)}, not {decoder!r}")
    if isinstance(encoder, str):
        name = encoder.rpartition("/")[2]
        if name in ENCODERS:
            kept = hub.default_cache_dir() / "encoders" / f"{name}.pt"
            encoder = kept if kept.is_file() else ENCODERS[name]
    return networks[decoder](encoder, **options)

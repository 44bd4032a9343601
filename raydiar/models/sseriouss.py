"""SSeRiouSS: a self-supervised front end (WavLM, wav2vec 2.0, HuBERT), LSTM, linear layers.

The front end is torchaudio's. Its layers are summed under learnt weights, as in S. Yang et al.,
"SUPERB: speech processing universal performance benchmark", Interspeech 2021, or one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydiar.errors import CheckpointError, ConfigError
from raydiar.models.convolutions import Convolution
from raydiar.models.recurrent import LINEAR, LSTM, RecurrentNetwork
from raydiar.models.specifications import Specifications


def bundle_config(name: str) -> dict[str, Any]:
    """Constructor arguments of one of torchaudio's self-supervised networks, e.g. "WAVLM_BASE".

    Raises
    ------
    ConfigError
        torchaudio has none of that name.
    """
    import torchaudio.pipelines

    bundle = getattr(torchaudio.pipelines, name, None)
    if not hasattr(bundle, "_params"):
        known = [
            one
            for one in dir(torchaudio.pipelines)
            if isinstance(getattr(torchaudio.pipelines, one), torchaudio.pipelines.Wav2Vec2Bundle)
        ]
        raise ConfigError(
            f"{name!r} is neither a file nor one of torchaudio's self-supervised networks "
            f"({', '.join(known)})"
        )
    return dict(bundle._params)


def front_end(config: Mapping[str, Any]) -> nn.Module:
    """A network of that configuration, with random weights.

    Raises
    ------
    ConfigError
    """
    from torchaudio import models

    # Only WavLM has positions relative to each other, in buckets.
    make = models.wavlm_model if "encoder_num_buckets" in config else models.wav2vec2_model
    try:
        return make(**config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"no self-supervised network has this configuration: {error}") from None


def _load(source: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A front end and its configuration, from a local checkpoint or one of torchaudio's."""
    if Path(source).is_file():
        from raydiar.models.checkpoint import read_content

        content = read_content(source)
        if not isinstance(content, dict) or not {"config", "state_dict"} <= content.keys():
            raise CheckpointError(f"{source}: a front end is a file of `config` and `state_dict`")
        network = front_end(content["config"])
        try:
            network.load_state_dict(content["state_dict"])
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{source}: its tensors are not of its `config`: {error}"
            ) from error
        return network, dict(content["config"])
    import torchaudio.pipelines

    config = bundle_config(str(source))
    try:
        return getattr(torchaudio.pipelines, str(source)).get_model(), config
    except OSError as error:
        raise ConfigError(
            f"{source} cannot be downloaded by torchaudio ({error}): name a local file of `config` "
            "and `state_dict`, or give the configuration for random weights"
        ) from error


class SSeRiouSS(RecurrentNetwork):
    """Segmentation network on a self-supervised front end.

    Parameters
    ----------
    wav2vec : str, Path or mapping
        Name of one of torchaudio's networks, whose weights it downloads; a local checkpoint of
        `config` and `state_dict`; or a configuration, for random weights.
    wav2vec_frozen : bool
        Do not train the front end.
    wav2vec_layer : int
        Layer to take, counted from 1; -1 for the sum of all under learnt weights.
    lstm, linear : dict, optional
    sample_rate, num_channels, specifications, task
        See `RecurrentNetwork`.
    """

    def __init__(
        self,
        wav2vec: str | Path | Mapping[str, Any] = "WAVLM_BASE",
        wav2vec_frozen: bool = False,
        wav2vec_layer: int = -1,
        lstm: dict | None = None,
        linear: dict | None = None,
        sample_rate: int = 16000,
        num_channels: int = 1,
        specifications: Specifications | None = None,
        task=None,
    ):
        super().__init__(sample_rate, num_channels, specifications, task)
        if isinstance(wav2vec, Mapping):
            wav2vec = dict(wav2vec)
            network = front_end(wav2vec)
        else:
            network, wav2vec = _load(wav2vec)
        num_layers = wav2vec["encoder_num_layers"]
        if wav2vec_layer != -1 and not 1 <= wav2vec_layer <= num_layers:
            raise ValueError(f"wav2vec_layer must be -1, or from 1 to {num_layers}")
        lstm, linear = {**LSTM, "num_layers": 4, **(lstm or {})}, {**LINEAR, **(linear or {})}
        self.save_hyperparameters("wav2vec", "wav2vec_frozen", "wav2vec_layer", "lstm", "linear")
        self.wav2vec = network
        if wav2vec_layer < 0:
            self.wav2vec_weights = nn.Parameter(torch.ones(num_layers))
        if wav2vec_frozen:
            self.wav2vec.requires_grad_(False)
        self.make_layers(wav2vec["encoder_embed_dim"], lstm, linear)

    @property
    def convolutions(self) -> list[Convolution]:
        layers = self.wav2vec.feature_extractor.conv_layers
        return [Convolution(layer.conv.kernel_size[0], layer.conv.stride[0]) for layer in layers]

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """As `PyanNet.forward`."""
        layer = self.hparams.wav2vec_layer
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.hparams.wav2vec_frozen):
            layers, _ = self.wav2vec.extract_features(
                waveforms.squeeze(1), num_layers=None if layer < 0 else layer
            )
        if layer < 0:
            frames = torch.stack(layers, dim=-1) @ self.wav2vec_weights.softmax(dim=0)
        else:
            frames = layers[-1]
        return self.scores(frames)

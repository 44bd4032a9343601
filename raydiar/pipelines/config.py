"""What a pipeline is made of, before and after its weights are on this machine.

A `PipelineConfig` names weights by URI and can be pickled anywhere; `localize` brings the weights
here and turns it into a `LocalPipeline`, which knows their hashes and so its own fingerprint.
Nothing in this module imports torch before weights are looked into.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raydiar import __version__, hub
from raydiar.clustering.parameters import (
    AgglomerativeParameters,
    CountingParameters,
    VBxParameters,
)
from raydiar.clustering.resolve import Clustering
from raydiar.errors import ConfigError
from raydiar.weights import CAMPPLUS_ZH_EN, SEGMENTATION_3_0, Weights

NUMERICS = 1
"""Raised by hand whenever the same weights and parameters begin to give other numbers."""

_PLDA_FILES = ("plda.npz", "xvec_transform.npz")


@dataclass(frozen=True)
class PipelineConfig:
    """A speaker diarization pipeline, before its weights are here.

    Attributes
    ----------
    segmentation, embedding : Weights
    plda : Weights or None
        Directory of `plda.npz` and `xvec_transform.npz`; VBx needs it.
    clustering : Clustering
    segmentation_step : float
        Step between windows as a fraction of their duration.
    embedding_exclude_overlap : bool
        Embed speakers from the frames where they speak alone, where there are enough.
    min_duration_off : float
        Pauses of a speaker shorter than this are filled, in seconds.
    segmentation_batch_size, embedding_batch_size : int
    dtype : str
        "float32" is exact; "bfloat16" and "float16" are fast.
    segmentation_threshold : float or None
        Probability from which a local speaker is active, of networks without powerset output; 0.5
        where not given.
    counting : CountingParameters or None
        How speakers that talk at once are counted; None counts as the reference does.
    device : str or None
        Device that the configuration asks for.
    """

    segmentation: Weights
    embedding: Weights
    clustering: Clustering
    plda: Weights | None = None
    segmentation_step: float = 0.1
    embedding_exclude_overlap: bool = True
    min_duration_off: float = 0.0
    segmentation_batch_size: int = 32
    embedding_batch_size: int = 32
    dtype: str = "float32"
    device: str | None = None
    segmentation_threshold: float | None = None
    counting: CountingParameters | None = None

    def __post_init__(self):
        if isinstance(self.clustering, VBxParameters) and self.plda is None:
            raise ConfigError("VBx clustering needs a PLDA: set `plda` to where its files are")
        seconds = self.min_duration_off
        if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ConfigError(f"min_duration_off must be zero or positive seconds, got {seconds!r}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype must be float32, bfloat16 or float16, not {self.dtype!r}")
        for name in ("segmentation_batch_size", "embedding_batch_size"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f"{name} must be at least 1, got {size!r}")
        threshold = self.segmentation_threshold
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"segmentation.threshold must be from 0 to 1, got {threshold!r}")

    def with_parameters(self, params: Mapping[str, Any]) -> PipelineConfig:
        """The same with other hyper-parameters, in pyannote's nested form.

        Raises
        ------
        ConfigError
            On a name that this pipeline does not have.
        """
        config = self
        for group, values in params.items():
            if group == "clustering":
                try:
                    config = replace(config, clustering=replace(config.clustering, **values))
                except TypeError as error:
                    raise ConfigError(
                        f"{type(config.clustering).__name__} has no such parameter: {error}"
                    ) from None
            elif group == "segmentation":
                unknown = set(values) - {"min_duration_off", "threshold"}
                if unknown:
                    raise ConfigError(
                        f"unknown segmentation parameters {sorted(unknown)}: there are "
                        "min_duration_off and, of networks without powerset output, threshold"
                    )
                values = dict(values)
                if "threshold" in values:
                    values["segmentation_threshold"] = values.pop("threshold")
                config = replace(config, **values)
            elif group == "counting":
                if values is None:
                    config = replace(config, counting=None)
                    continue
                try:
                    counting = replace(config.counting or CountingParameters(), **values)
                except TypeError as error:
                    raise ConfigError(f"counting has no such parameter: {error}") from None
                config = replace(config, counting=counting)
            else:
                raise ConfigError(f"unknown group of parameters {group!r}")
        return config

    def localize(
        self, token: str | None = None, cache_dir: str | Path | None = None
    ) -> LocalPipeline:
        """Bring all weights to this machine and look into them.

        Raises
        ------
        WeightsNotFound, CheckpointError
        """
        segmentation = self.segmentation.fetch("pytorch_model.bin", token, cache_dir)
        embedding = self.embedding.fetch("pytorch_model.bin", token, cache_dir)
        plda = None
        if isinstance(self.clustering, VBxParameters):
            files = [self.plda.fetch(name, token, cache_dir) for name in _PLDA_FILES]
            plda = hub.gather(files, cache_dir).absolute()

        from raydiar.models import Model
        from raydiar.models.embedding_network import EmbeddingNetwork

        network = Model.from_pretrained(embedding)
        if not isinstance(network, EmbeddingNetwork):
            raise ConfigError(
                f"{self.embedding} holds a {type(network).__name__}, which gives scores of frames, "
                "not speaker embeddings"
            )
        return LocalPipeline(
            config=self,
            segmentation=segmentation,
            embedding=embedding,
            plda=plda,
            hashes=_hashes(segmentation, embedding, plda),
            dimension=network.dimension,
            embedding_mode=network.embedding_mode,
        )


@dataclass(frozen=True)
class LocalPipeline:
    """A pipeline whose weights are files on this machine.

    Attributes
    ----------
    config : PipelineConfig
    segmentation, embedding : Path
    plda : Path or None
        Directory.
    hashes : dict
        SHA-256 of "segmentation", "embedding" and, where there is one, "plda".
    dimension : int
        Of the embeddings.
    embedding_mode : str
        "masked" or "cut": how a speaker is told from the others of a window.
    """

    config: PipelineConfig
    segmentation: Path
    embedding: Path
    plda: Path | None
    hashes: dict[str, str]
    dimension: int
    embedding_mode: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that decides the numbers, beside the weights."""
        return {
            "clustering": {
                "name": type(self.config.clustering).__name__,
                **asdict(self.config.clustering),
            },
            "segmentation_step": self.config.segmentation_step,
            "embedding_exclude_overlap": self.config.embedding_exclude_overlap,
            "min_duration_off": self.config.min_duration_off,
            "dtype": self.config.dtype,
            **self._optional,
        }

    @property
    def _optional(self) -> dict[str, Any]:
        # Left out where there is none, so that fingerprints made before it was there still hold.
        threshold, counting = self.config.segmentation_threshold, self.config.counting
        optional = {} if threshold is None else {"segmentation_threshold": threshold}
        return optional if counting is None else optional | {"counting": asdict(counting)}

    @property
    def fingerprint(self) -> str:
        """Equal exactly when two pipelines give the same rows: 32 hexadecimal digits."""
        identity = {
            "numerics": NUMERICS,
            "hashes": self.hashes,
            "embedding_mode": self.embedding_mode,
            "parameters": self.parameters,
        }
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def with_config(self, config: PipelineConfig) -> LocalPipeline:
        """The same weights under other parameters."""
        return replace(self, config=config)

    def describe(self) -> dict[str, str]:
        """The `pipeline` column of a diarization dataset."""
        return {
            "fingerprint": self.fingerprint,
            "segmentation": self.hashes["segmentation"],
            "embedding": self.hashes["embedding"],
            "embedding_mode": self.embedding_mode,
            "parameters": json.dumps(self.parameters, sort_keys=True),
            "raydiar": __version__,
        }

    def mirror(self, directory: str) -> LocalPipeline:
        """Copy the weights, by hash, under a directory or fsspec URI that other nodes can read.

        Returns
        -------
        mirrored : LocalPipeline
            Whose configuration names the copies; `localize` it on another node.
        """

        def copy_network(name: str, path: Path) -> Weights:
            return mirrored(path, self.hashes[name], directory)

        plda = None
        if self.plda is not None:
            files = [self.plda / name for name in _PLDA_FILES]
            copies = [copy_to(directory, self.hashes["plda"], file) for file in files]
            plda = Weights(
                copies[0].rpartition("/")[0],
                hashes=tuple((file.name, hub.sha256_of(file)) for file in files),
            )
        config = replace(
            self.config,
            segmentation=copy_network("segmentation", self.segmentation),
            embedding=copy_network("embedding", self.embedding),
            plda=plda,
        )
        return replace(self, config=config)


def mirrored(path: Path, sha256: str, directory: str) -> Weights:
    """Copy a network, by its hash, under a directory or fsspec URI that other nodes can read."""
    return Weights(f"{copy_to(directory, sha256, path)}#sha256={sha256}")


def copy_to(directory: str, folder: str, path: Path) -> str:
    """Copy a file into a folder below a directory, unless it is there; gives the copy's URI."""
    import fsspec

    from raydiar.storage.folder import staged

    filesystem, root = fsspec.core.url_to_fs(directory)
    target = f"{root}/{folder}/{path.name}"
    uri = filesystem.unstrip_protocol(target)
    if not filesystem.exists(target) or filesystem.size(target) != path.stat().st_size:
        with staged(uri) as file:  # whole, or a kill would leave half of it for good
            shutil.copyfile(path, file)
    return uri


def _hashes(segmentation: Path, embedding: Path, plda: Path | None) -> dict[str, str]:
    hashes = {
        "segmentation": hub.sha256_of(segmentation),
        "embedding": hub.sha256_of(embedding),
    }
    if plda is not None:
        parts = "".join(hub.sha256_of(plda / name) for name in _PLDA_FILES)
        hashes["plda"] = hashlib.sha256(parts.encode()).hexdigest()
    return hashes


DEFAULT = PipelineConfig(
    segmentation=SEGMENTATION_3_0,
    embedding=CAMPPLUS_ZH_EN,
    clustering=AgglomerativeParameters(),
)
"""The embedded default: segmentation-3.0 (MIT) and CAM++ zh-en (Apache-2.0), from one wheel."""

EXACT = DEFAULT
"""The embedded networks with the numbers of pyannote.audio 4.0.7, whatever becomes the default."""

SOFT = replace(EXACT, counting=CountingParameters())
"""The same, but hears more speech: speakers are counted by what windows believe."""

NAMED = {"default": DEFAULT, "exact": EXACT, "soft": SOFT}
"""Configurations that have a name; a folder of the same name is meant with "./"."""

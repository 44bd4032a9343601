"""Everything that makes a run, as plain values: what a command or a YAML file says.

A recipe can be sent to other machines and opened there; only then are weights fetched, rooms and
noises read, and the index mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from raydiar.errors import ConfigError, TrainingError
from raydiar.training.config import TrainingConfig

KINDS = ("segmentation", "embedding")


@dataclass(frozen=True)
class Recipe:
    """
    Attributes
    ----------
    kind : str
        "segmentation" or "embedding".
    manifest : str
        What to learn from: path or URI.
    validate : str or None
        Manifest to measure on.
    pretrained : str or None
        Weights to start from: "segmentation-3.0", "campplus", or what `Model.from_pretrained`
        takes; None: from scratch.
    architecture : str
        Name of the network that starts from scratch.
    hyper_parameters : dict
        Of its constructor.
    task : dict
        Arguments of the task: duration, max_speakers_per_chunk, margin, balance, …
    augmentation : dict
        `rooms` and `noises` are folders or globs of audio; the other arguments of `Augmentation`;
        `mix`: probability of mixing two windows.
    training : TrainingConfig
    """

    kind: str
    manifest: str
    validate: str | None = None
    pretrained: str | None = None
    architecture: str = ""
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"a recipe trains {' or '.join(KINDS)}, not {self.kind!r}")

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Recipe:
        """What a YAML file says.

        Raises
        ------
        ConfigError
            Naming what is unknown.
        """
        known = {one.name for one in fields(cls)}
        if unknown := set(content) - known:
            raise ConfigError(f"a recipe has no {sorted(unknown)}; it has {sorted(known)}")
        training = content.get("training") or {}
        if not isinstance(training, TrainingConfig):
            _check_known(training, TrainingConfig, "training")
            training = TrainingConfig(**training)
        return cls(**{**content, "training": training})

    @classmethod
    def read(cls, path: str, **overrides: Any) -> Recipe:
        """Read a YAML file; `overrides` of fields, and of `training`, win."""
        import yaml

        try:
            with fsspec.open(path, "rt", encoding="utf-8") as file:
                content = yaml.safe_load(file)
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read as a recipe: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path} is no recipe: it holds no mapping")
        training = {**(content.get("training") or {}), **overrides.pop("training", {})}
        return cls.from_mapping({**content, **overrides, "training": training})

    def with_training(self, **changes: Any) -> Recipe:
        return replace(self, training=replace(self.training, **changes))

    # -- opened --------------------------------------------------------------------------------

    def model(self):
        """The network that training starts from.

        Raises
        ------
        ConfigError, CheckpointError, WeightsNotFound
        """
        import torch

        from raydiar.models import Model
        from raydiar.pipelines.config import DEFAULT

        torch.manual_seed(self.training.seed)
        if self.pretrained is not None:
            known = {
                "segmentation-3.0": DEFAULT.segmentation.uri,
                "campplus": DEFAULT.embedding.uri,
            }
            return Model.from_pretrained(
                known.get(self.pretrained, self.pretrained), **self.hyper_parameters
            )
        default = "PyanNet" if self.kind == "segmentation" else "WeSpeakerResNet34"
        return Model.custom(self.architecture or default, **self.hyper_parameters)

    def open_task(self, folder: str, model=None):
        """The task, with the indices that `prepare` has written below the folder of a run."""
        from raydiar.training.speakers import SpeakerEmbedding
        from raydiar.training.tasks import SpeakerDiarization

        options = dict(self.task)
        if model is not None and self.kind == "segmentation" and self.pretrained is not None:
            # a network goes on with its own task, unless told otherwise
            specifications = model.specifications
            options.setdefault("duration", specifications.duration)
            options.setdefault("max_speakers_per_chunk", len(specifications.classes))
            options.setdefault("max_speakers_per_frame", specifications.powerset_max_classes)
        data = open_index(folder, "train")
        validation = open_index(folder, "validation") if self.validate else None
        augmentation = dict(self.augmentation)
        mix = augmentation.pop("mix", 0.0)
        cls = SpeakerDiarization if self.kind == "segmentation" else SpeakerEmbedding
        options["batch_size"] = self.training.batch_size
        try:
            task = cls(data, validation=validation, seed=self.training.seed, **options)
        except TypeError as error:
            raise ConfigError(f"the task has no such option: {error}") from None
        if augmentation:
            task.augmentation = read_augmentation({"seed": self.training.seed, **augmentation})
        if mix and self.kind == "segmentation":
            from raydiar.training.augmentation import MixedWindows

            task.setup()
            task._source = MixedWindows(
                task.source, mix, max_speakers=task.num_speakers, seed=self.training.seed
            )
        return task

    def monitor(self) -> tuple[str, str]:
        """What a validation is judged by, and whether "min" or "max" of it is best."""
        from raydiar.training.speakers import SpeakerEmbedding
        from raydiar.training.tasks import SpeakerDiarization

        task = SpeakerDiarization if self.kind == "segmentation" else SpeakerEmbedding
        return task.monitor, task.mode

    def about(self) -> dict[str, Any]:
        """What the folder of a run shall say of it."""
        told = asdict(self)
        del told["training"]
        return {"recipe": told, "data": content_hash(self.manifest)}


def _check_known(given: Mapping[str, Any], cls, what: str) -> None:
    known = {one.name for one in fields(cls)}
    if unknown := set(given) - known:
        raise ConfigError(f"{what} has no {sorted(unknown)}; it has {sorted(known)}")


def content_hash(uri: str) -> str:
    """SHA-256 of a manifest; of the names and sizes of its files where it is a folder."""
    fs, path = url_to_fs(uri)
    if not fs.exists(path):
        raise TrainingError(f"there is no manifest at {uri}")
    if fs.isdir(path):
        files = sorted((name, about["size"]) for name, about in fs.find(path, detail=True).items())
        return hashlib.sha256(repr(files).encode()).hexdigest()
    return hashlib.sha256(fs.cat_file(path)).hexdigest()


def prepare(recipe: Recipe, folder: str) -> None:
    """Index the manifests of a recipe below the folder of its run, unless that was done.

    Raises
    ------
    ManifestError, TrainingError
    """
    from raydiar.training.folder import RunFolder, temporary_folder
    from raydiar.training.index import build_index

    where = RunFolder(folder).folder
    scope = "file"
    if recipe.kind == "embedding":
        scope = recipe.task.get("scope", "global")
    for name, manifest in (("train", recipe.manifest), ("validation", recipe.validate)):
        if manifest is None:
            continue
        source = {"manifest": manifest, "sha256": content_hash(manifest), "scope": scope}
        known = RunFolder(folder).read_json(f"index/{name}/source.json")
        if known is not None:
            if known["sha256"] != source["sha256"] or known["scope"] != scope:
                raise TrainingError(
                    f"{manifest} is not what the run in {folder} began with: take another folder"
                )
            continue
        with temporary_folder() as scratch:
            index = build_index(manifest, scratch, scope=scope)
            for line in index.skipped:
                print(f"raydiar: left out: {line}")
            for path in sorted(Path(scratch).iterdir()):
                where.publish(f"index/{name}/{path.name}", path.read_bytes())
        import json

        # last: an index that this says nothing of is not whole
        where.publish(f"index/{name}/source.json", json.dumps(source).encode())


def open_index(folder: str, name: str):
    """An index below the folder of a run; copied to this machine first if it lies elsewhere."""
    import tempfile

    from raydiar.training.folder import RunFolder
    from raydiar.training.index import TrainingIndex

    where = RunFolder(folder).folder
    if where.is_local:
        return TrainingIndex(Path(where.path(f"index/{name}")))
    local = Path(tempfile.mkdtemp(prefix="raydiar-index-"))
    _COPIES.append(local)
    for file in where.list(f"index/{name}"):
        (local / file).write_bytes(where.read(f"index/{name}/{file}"))
    return TrainingIndex(local)


_COPIES: list[Path] = []


def read_augmentation(options: Mapping[str, Any]):
    """`Augmentation` with the rooms and noises of folders or globs.

    Raises
    ------
    ConfigError
        If a folder holds no audio, or there is no such option.
    """
    from raydiar.audio import decode
    from raydiar.simulation.room import Room
    from raydiar.training.augmentation import Augmentation

    options = dict(options)
    _check_known(options, Augmentation, "augmentation")
    if "rooms" in options:
        options["rooms"] = [Room([decode(path)]) for path in _audio_files(options["rooms"])]
    if "noises" in options:
        options["noises"] = [decode(path) for path in _audio_files(options["noises"])]
    for name in ("snr", "gain", "codec_depth", "codec_cutoff"):
        if name in options:
            options[name] = tuple(options[name])
    return Augmentation(**options)


def _audio_files(source: str | list[str]) -> list[str]:
    from raydiar.corpus.inputs.sources import list_audio

    sources = [source] if isinstance(source, str) else source
    found = sorted(uri for one in sources for uri, _ in list_audio(one))
    if not found:
        raise ConfigError(f"there is no audio in {source}")
    return found

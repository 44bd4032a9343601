"""Which extra of the package brings a module that is not installed."""

from __future__ import annotations

from raydiar.errors import ConfigError

# What brings a module to a command that needs no extra otherwise; those of the other commands
# bring all that the command needs.
_OF_MODULE = {
    "ray": "corpus",
    "pyarrow": "corpus",
    "s3fs": "corpus",
    "faiss": "voiceprints",
    "fastapi": "serve",
    "starlette": "serve",
    "sqlalchemy": "serve",
    "prometheus_client": "serve",
    "python_multipart": "serve",
    "aiohttp": "serve",
    "pydantic": "serve",
    "lightning": "train",
    "torchaudio": "train",
    "rapidfuzz": "evaluate",
    "pyannote": "evaluate",  # pyannote.metrics; pyannote.core is always there
    "matplotlib": "plot",
    "optuna": "tune",
    "praatio": "tune",
}
_OF_COMMAND = {
    "corpus": "corpus",
    "voiceprint": "voiceprints",
    "serve": "serve",
    "train": "train",
    "evaluate": "evaluate",
    "benchmark": "evaluate",
    "ablate": "evaluate",
    "optimize": "tune",
}


class ExtraNeeded(ConfigError):
    """A command whose packages were not installed with raydiar."""


def explain(error: ImportError, arguments: list[str]) -> ExtraNeeded | None:
    """What to install, if an extra of raydiar would bring the missing module.

    Parameters
    ----------
    error : ImportError
        Of the module, or of fsspec, which tells what driver a storage needs.
    arguments : list of str
        The command line, without the program's name.
    """
    if error.name is None and "nstall" in str(error):
        return ExtraNeeded(str(error))
    name = error.name or ""
    extra = _OF_MODULE.get(name.partition(".")[0])
    if extra is None:
        return None
    command = next((word for word in arguments if not word.startswith("-")), None)
    extra = _OF_COMMAND.get(command, extra)
    return ExtraNeeded(f"this needs {name}, which is not installed: pip install 'raydiar[{extra}]'")

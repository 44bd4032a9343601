"""pyannote.audio 4.0.7 in an environment of its own, and workers that both sides run in.

A worker is a process that loads its pipeline once and then diarizes what it is told, one line of
JSON a run: so loading is never timed, the two sides take turns, and each has its own peak memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"
SHARED = ROOT.parent / "shared"
PLDA = SHARED / "models/plda"
RESNET34 = SHARED / "reference/resnet34/resnet34_random_seed1234.ckpt"


def pyannote_python() -> Path:
    """Interpreter of an environment with pyannote.audio 4.0.7, made on first use.

    It sees the packages of this environment, so both sides run on one and the same torch.
    """
    home = BENCH / "pyannote"
    python = home / "bin/python"
    done = home / ".installed"
    if not done.exists():
        print(f"==> Installing pyannote.audio 4.0.7 into {home.relative_to(ROOT)}")
        venv.create(home, with_pip=True, clear=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (home / "lib" / version / "site-packages/ours.pth").write_text(f"{ours}\n{ROOT}\n")
        command = [python, "-m", "pip", "install", "--quiet", "pyannote.audio==4.0.7"]
        subprocess.run(command, check=True)
        done.touch()
    return python


class Worker:
    """A process that diarizes on demand.

    Parameters
    ----------
    python : Path
    script : str
        Below `benchmarks/workers`.
    arguments : list of str
    threads : int
        Of torch.
    """

    def __init__(self, python: Path | str, script: str, arguments: list[str], threads: int):
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYANNOTE_METRICS_ENABLED": "0"}
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(threads)
        self._process = subprocess.Popen(
            [python, ROOT / "benchmarks/workers" / script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCH_VERBOSE") else None,
            text=True,
            env=environment,
        )
        self._reply()

    def run(self, path: Path) -> dict:
        """Diarize a 16 kHz mono wav: {"seconds", "peak_rss_mb", "rttm"}."""
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)

    def _reply(self) -> dict:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(
            f"the worker ended; set BENCH_VERBOSE=1 to see why: {self._process.args}"
        )

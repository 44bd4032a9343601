"""`raydiar plan`: how long a corpus takes on a cluster, as arithmetic that can be read and doubted.

Every number comes from a table of rates (`rates.json`) that says whether it was measured, published
or counted. Steps overlap, since recordings stream through them: the slowest sets the wall time.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath

from raydiar.errors import ConfigError
from raydiar.storage import BLOCK_BYTES

_PACKS_PER_HOUR = 1.3  # of an hour each, and what is left of every decode task
PCM_BYTES = 16_000 * 2 * 3600  # of an hour at 16 kHz, int16


@dataclass(frozen=True)
class Rate:
    """A speed or size, its unit, and where it comes from.

    `source` begins with "measured:", "published:", "arithmetic:" or "assumed".
    """

    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Step:
    """A part of the cluster that a job keeps busy.

    Attributes
    ----------
    name : str
    seconds : float
        That it needs for the whole corpus.
    arithmetic : tuple of str
        Lines that show how.
    rates : tuple of str
        Names of the rates that they use.
    """

    name: str
    seconds: float
    arithmetic: tuple[str, ...]
    rates: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a corpus takes on a cluster; `str` of it shows the arithmetic.

    Attributes
    ----------
    title : str
    steps : tuple of Step
    wall_seconds : float
    output_bytes : float
    rates : dict of Rate
    packs : float
        An hour of audio each, and what is left of every decode task.
    """

    title: str
    steps: tuple[Step, ...]
    wall_seconds: float
    output_bytes: float
    rates: dict[str, Rate]
    packs: float

    @property
    def bottleneck(self) -> Step:
        return max(self.steps, key=lambda step: step.seconds)

    @property
    def num_jobs(self) -> int:
        """Jobs, each with a part of the manifest, whose drivers feed the cluster together."""
        seconds = self.packs / self.rates["driver"].value
        return max(1, math.ceil(seconds / self.bottleneck.seconds))

    def __str__(self) -> str:
        lines = [self.title]
        for step in self.steps:
            lines += ["", step.name, *(f"  {line}" for line in step.arithmetic)]
        overhead, output = self.rates["overhead"].value, self.rates["output"].value
        lines += [
            "",
            f"bottleneck  {self.bottleneck.name}",
            f"wall time   {_time(self.bottleneck.seconds)} x {1 + overhead:.3f} for Ray's overhead "
            f"= {_time(self.wall_seconds)}",
            self._drivers(),
            f"output      {_number(output)} bytes an hour = {_bytes(self.output_bytes)}",
        ]
        if "gpu_sustained" in self.bottleneck.rates:
            lines.append("The GPU's speed is arithmetic, not measured: try an hour of audio first.")
        used = [name for step in self.steps for name in step.rates]
        lines += ["", "rates"]
        for name in dict.fromkeys([*used, "overhead", "driver", "output"]):
            rate = self.rates[name]
            lines.append(f"  {name} = {_number(rate.value)} {rate.unit}; {rate.source}")
        return "\n".join(lines)

    def _drivers(self) -> str:
        rate = self.rates["driver"].value
        seconds = _time(self.packs / rate)
        alone = f"{self.packs:,.0f} packs / {_number(rate)} packs/s = {seconds}"
        if self.num_jobs == 1:
            return f"driver      {alone}: one job feeds the cluster"
        several = f"split the manifest, and run {self.num_jobs:,} jobs at once"
        return f"driver      {alone} for one: {several}"


def read_rates(path: str | None = None) -> dict[str, Rate]:
    """The rates that raydiar ships, with those of a file in their place.

    Raises
    ------
    ConfigError
        If the file is missing or not of the form of `raydiar/rates.json`.
    """
    rates = json.loads(files("raydiar").joinpath("rates.json").read_text(encoding="utf-8"))
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                rates = {**rates, **json.load(file)}
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} cannot be read as rates: {error}") from error
    try:
        return {name: _rate(**dict(rate)) for name, rate in rates.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f'{path}: a rate is {{"value": above 0, "unit": …, "source": …}} ({error})'
        ) from error


def _rate(value: float, unit: str, source: str) -> Rate:
    if not float(value) > 0:
        raise ValueError(f"{value} is not above 0")
    return Rate(float(value), unit, source)


def parse_bitrate(text: str) -> float:
    """Bits per second of "64k", "1.4M" or "64000".

    Raises
    ------
    ConfigError
    """
    found = re.fullmatch(r"(\d+\.?\d*)([kM]?)", text)
    if not found or not float(found[1]):
        raise ConfigError(f"a bit rate is written 64k, 1.4M or 64000, not {text!r}")
    return float(found[1]) * {"": 1, "k": 1e3, "M": 1e6}[found[2]]


def make_plan(
    hours: float,
    cpus: int,
    gpu: str | None = None,
    gpus: int = 1,
    *,
    bitrate: float = 64_000,
    audio: str = "mp3",
    embedding: str = "campplus",
    rates: dict[str, Rate] | None = None,
) -> Plan:
    """Plan a corpus of `hours` on a cluster of `cpus` cores and `gpus` GPUs.

    Parameters
    ----------
    gpu : str, optional
        Kind of GPU; without one, networks run on CPU cores.
    bitrate : float, bit/s
        Of the stored audio.
    audio : str
        Format that a decoding speed is known of, or only its ending: then its slowest.
    embedding : str
        "campplus" (the default pipeline) or "resnet34" (pyannote's pipelines).
    rates : dict of Rate, optional
        See `read_rates`.

    Raises
    ------
    ConfigError
        If something is unknown, or does not fit.
    """
    rates = read_rates() if rates is None else rates
    if not hours > 0:
        raise ConfigError(f"hours must be above 0, not {hours}")
    gpus = gpus if gpu else 0
    if cpus < 1 or gpus < 0 or (gpu and gpus < 1) or cpus <= gpus:
        raise ConfigError(f"{cpus} CPU cores do not serve {gpus} GPUs: each takes one of them")
    steps = [_cpu_step(hours, cpus, gpus, audio, embedding, rates)]
    if gpu:
        steps = [
            _gpu_step(hours, gpu, gpus, embedding, rates),
            *steps,
            _network_step(hours, gpus, rates),
        ]
    steps.append(_storage_step(hours, bitrate, rates))
    slowest = max(step.seconds for step in steps)
    cluster = (f"{gpus:,} x {gpu}, " if gpu else "") + f"{cpus:,} CPU cores"
    return Plan(
        title=f"{hours:,.0f} h of {audio} at {bitrate / 1000:g} kbit/s on {cluster}",
        steps=tuple(steps),
        wall_seconds=slowest * (1 + rates["overhead"].value),
        output_bytes=hours * rates["output"].value,
        rates=rates,
        packs=_PACKS_PER_HOUR * hours,
    )


def _gpu_step(hours: float, gpu: str, gpus: int, embedding: str, rates: dict[str, Rate]) -> Step:
    measured = f"inference/{gpu}/{embedding}"
    if measured in rates:
        used = (measured,)
        per_hour = 3600 / rates[measured].value
        lines = [f"3,600 s / {_number(rates[measured].value)} = {_number(per_hour)} s an hour"]
    else:
        peak = _known(rates, "gpu", gpu, "GPU")
        network = _known(rates, "flop", embedding, "embedding network")
        used = ("flop/segmentation", network, peak, "gpu_sustained")
        parts, fraction = [rates[name].value for name in used[:2]], rates["gpu_sustained"].value
        sustained = rates[peak].value * fraction
        per_hour = sum(parts) / sustained
        lines = [
            f"segmentation {_number(parts[0])} + {embedding} {_number(parts[1])} = "
            f"{_number(sum(parts))} TFLOP an hour",
            f"{_number(rates[peak].value)} TFLOP/s x {fraction:g} sustained = "
            f"{_number(sustained)} TFLOP/s",
            f"{_number(sum(parts))} / {_number(sustained)} = {_number(per_hour)} s an hour "
            f"({_number(3600 / per_hour)} x real time per GPU)",
        ]
    seconds = hours * per_hour / gpus
    lines.append(f"{hours:,.0f} h x {_number(per_hour)} s / {gpus:,} GPUs = {_time(seconds)}")
    return Step("GPUs (networks)", seconds, tuple(lines), used)


def _cpu_step(
    hours: float, cpus: int, gpus: int, audio: str, embedding: str, rates: dict[str, Rate]
) -> Step:
    decode = _decode_rate(audio, rates)
    used, name = [decode, "resolve"], "CPU cores (decoding, clustering)"
    decoding, resolving = 3600 / rates[decode].value, rates["resolve"].value
    lines = [f"decoding 3,600 s / {_number(rates[decode].value)} = {_number(decoding)} s an hour"]
    work = f"{_number(decoding)} + clustering {_number(resolving)}"
    per_hour, cores, counted = decoding + resolving, cpus - gpus, f"{cpus:,}"
    if gpus:
        counted = f"({cpus:,} - {gpus:,} that serve GPUs)"
    else:
        networks = _known(rates, "inference/cpu", embedding, "embedding network on CPUs")
        used, name = [*used, networks], "CPU cores (networks, decoding, clustering)"
        speed = rates[networks].value
        inference = 3600 / speed
        lines.append(f"networks 3,600 s / {_number(speed)} = {_number(inference)} s an hour")
        work += f" + networks {_number(inference)}"
        per_hour += inference
    seconds = hours * per_hour / cores
    lines += [
        f"{work} = {_number(per_hour)} core-seconds an hour",
        f"{hours:,.0f} h x {_number(per_hour)} s / {counted} cores = {_time(seconds)}",
    ]
    return Step(name, seconds, tuple(lines), tuple(used))


def _network_step(hours: float, gpus: int, rates: dict[str, Rate]) -> Step:
    nodes = -(-gpus // int(rates["gpus_per_node"].value))
    speed = rates["network"].value * 1e9 / 8
    seconds = hours * PCM_BYTES / (nodes * speed)
    lines = (
        f"PCM, all of it decoded on other nodes: 3,600 s x 16,000 x 2 bytes = "
        f"{PCM_BYTES / 1e6:.1f} MB an hour",
        f"{gpus:,} GPUs / {_number(rates['gpus_per_node'].value)} = {nodes:,} nodes x "
        f"{_number(rates['network'].value)} Gbit/s = {_bytes(nodes * speed)}/s",
        f"{hours:,.0f} h x {PCM_BYTES / 1e6:.1f} MB / {_bytes(nodes * speed)}/s = {_time(seconds)}",
    )
    return Step("network (into GPU nodes)", seconds, lines, ("gpus_per_node", "network"))


def _storage_step(hours: float, bitrate: float, rates: dict[str, Rate]) -> Step:
    size = bitrate / 8 * 3600
    requests = size / BLOCK_BYTES
    seconds = hours * requests / rates["storage"].value
    lines = (
        f"{bitrate / 1000:g} kbit/s / 8 x 3,600 s = {_bytes(size)} an hour, in all "
        f"{_bytes(size * hours)}",
        f"in blocks of 4 MiB: {_number(requests)} requests an hour, and more for recordings "
        f"shorter than {_time(BLOCK_BYTES / (bitrate / 8))}",
        f"{hours:,.0f} h x {_number(requests)} / {_number(rates['storage'].value)} requests/s = "
        f"{_time(seconds)}",
    )
    return Step("storage", seconds, lines, ("storage",))


def _decode_rate(audio: str, rates: dict[str, Rate]) -> str:
    if f"decode/{audio}" in rates:
        return f"decode/{audio}"
    formats = [name for name in rates if name.startswith("decode/")]
    same = [name for name in formats if PurePosixPath(name).suffix == f".{audio}"]
    if not same:
        known = sorted(name.removeprefix("decode/") for name in formats)
        endings = sorted({PurePosixPath(name).suffix[1:] for name in known})
        raise ConfigError(
            f"no decoding speed is known of {audio!r}; known: {', '.join(endings)}, or exactly: "
            f"{', '.join(known)}"
        )
    return min(same, key=lambda name: rates[name].value)


def _known(rates: dict[str, Rate], kind: str, name: str, what: str) -> str:
    """`kind/name`, if there is such a rate."""
    known = [key.removeprefix(f"{kind}/") for key in rates if key.startswith(f"{kind}/")]
    if name not in known:
        listed = ", ".join(sorted(set(known) - {"segmentation"}))
        raise ConfigError(f"no rate is known of the {what} {name!r}; known: {listed}")
    return f"{kind}/{name}"


def _number(value: float) -> str:
    """With three significant digits at least, and none that mean nothing."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.3g} s"


def _bytes(size: float) -> str:
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"

"""How a run is watched: a live line in a terminal, a line now and then in a log, and `run.json`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from raydiar.corpus.watch.progress import RunSummary

QUIET_SECONDS = 600.0  # without a finished recording, which is worth telling


class Reporter:
    """Reports a running job, inside a `with` block.

    Parameters
    ----------
    summary : RunSummary
    record : callable
        Publishes the summary for others to read.
    report : callable, optional
        Takes a line every half minute. By default it is printed, or, where standard output is a
        terminal, kept up to date in place.
    every : float, s
    """

    def __init__(
        self,
        summary: RunSummary,
        record: Callable[[], None],
        report: Callable[[str], None] | None = None,
        every: float = 30.0,
    ):
        self.summary, self.record, self.report, self.every = summary, record, report, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._watch = _QuietWatch()
        self._live = ExitStack()

    def __enter__(self) -> Reporter:
        if self.report is None:
            if sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
                self._live.enter_context(_live_line(self._line))
            else:
                self.report = print_line
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(Exception):  # a terminal that was closed takes no last line
            self._live.close()

    def _run(self) -> None:
        while not self._ended.wait(self.every):
            # a moment's failure: the next attempt is near, and write tasks tell of worse
            with suppress(Exception):
                self.record()
            # whoever looked on may have gone, which is no reason to stop, nor to record no more
            with suppress(Exception):
                if self.report is not None:
                    self.report(self._line())

    def _line(self) -> str:
        self.summary.tick()
        quiet = self._watch.seconds(self.summary.num_processed)
        line = progress_line(self.summary)
        # nothing but long recordings explains this; Ray Data's own time-out would end the job
        return line if quiet < QUIET_SECONDS else f"{line}; nothing finished for {duration(quiet)}"


class _QuietWatch:
    """How long a count has not changed."""

    def __init__(self):
        self._count, self._since = 0, time.monotonic()

    def seconds(self, count: int) -> float:
        if count != self._count:
            self._count, self._since = count, time.monotonic()
        return time.monotonic() - self._since


def print_line(line: str) -> None:
    """Print a line, unless nobody reads any more: a job goes on without being watched."""
    try:
        print(line, flush=True)  # the output of a submitted job is a file, which Python buffers
    except BrokenPipeError:
        # what is left in its buffer would fail again, lastly when Python ends
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    except (OSError, ValueError):  # a full disk under a log, a closed file
        pass


def _live_line(line: Callable[[], str]):
    """A context in which a line stands at the bottom of the terminal, made anew twice a second.

    What is printed meanwhile appears above it.
    """
    from rich.live import Live
    from rich.spinner import Spinner

    spinner = Spinner("dots")

    def content() -> Spinner:
        spinner.update(text=line())
        return spinner

    return Live(get_renderable=content, refresh_per_second=4, transient=True)


def progress_line(summary: RunSummary) -> str:
    """What a run has done of what it has to do, in one line."""
    about, known = "" if summary.stated_all else "≈", summary.known_seconds
    parts = [
        f"{summary.num_processed:,} of {summary.num_known:,} recordings",
        f"{hours(summary.audio_seconds)}{'' if known is None else f' of {about}{hours(known)}'} h",
        f"{summary.speed:,.1f} x real time",
        listed_errors(summary.errors),
    ]
    if summary.num_shards:
        parts.insert(1, f"{summary.num_shards_read:,} of {summary.num_shards:,} shards")
    if summary.seconds_left is not None:
        parts.append(f"≈{duration(summary.seconds_left)} left")
    return ", ".join(parts)


def listed_errors(errors, most: int = 3) -> str:
    """Error rows and their commonest types: `3 errors (2 AudioNotFound, 1 DecoderStalled)`."""
    total = sum(errors.values())
    kinds = [f"{count:,} {kind}" for kind, count in errors.most_common(most)]
    kinds += ["…"] * (len(errors) > most)
    text = f"{total:,} error{'s' * (total != 1)}"
    return f"{text} ({', '.join(kinds)})" if kinds else text


def hours(seconds: float) -> str:
    """Seconds as a number of hours, with two decimals while they matter."""
    return f"{seconds / 3600:,.{0 if seconds >= 360_000 else 2}f}"


def duration(seconds: float) -> str:
    """Seconds in words: `40 s`, `12 min`, `3 h 20 min`, `2 d 5 h`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"

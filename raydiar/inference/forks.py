"""Networks in a forked process hang without a word; here that is an error, with the way out.

A fork copies memory but not threads. The copy of OpenMP then waits for workers that it does not
have, and a copied CUDA context cannot be used at all, also by networks that are loaded anew.
"""

from __future__ import annotations

import os

from raydiar.errors import ForkedProcess

_home: int | None = None  # process id; the copy of a fork finds that of its parent


def check_not_forked() -> None:
    """
    Raises
    ------
    ForkedProcess
        If networks were loaded in a process of which this one is a fork.
    """
    if _home not in (None, os.getpid()):
        raise ForkedProcess(
            "this process was forked from one that had networks loaded: torch would hang in it. "
            'Start processes with multiprocessing.get_context("spawn") (or "forkserver"), or load '
            "the pipeline only after the fork."
        )


def claim_process() -> None:
    """Remember that this process computes with networks.

    Raises
    ------
    ForkedProcess
    """
    global _home
    check_not_forked()
    _home = os.getpid()

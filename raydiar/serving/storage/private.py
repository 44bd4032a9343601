"""Folders and files for the user alone who runs the server."""

import os
from pathlib import Path
from typing import BinaryIO


def make_private_folder(folder: Path) -> None:
    """Make a folder, and what is missing above it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def create_private(path: Path) -> BinaryIO:
    """Open a file for writing; a new one is made, and one that is there is emptied."""
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))

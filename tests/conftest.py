"""Where tests find real data; those that need reference outputs say when they are absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference outputs and real recordings kept beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared folder beside this checkout: comparison with references not run")
    return SHARED

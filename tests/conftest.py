"""Fixtures shared by all tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real dermoscopic images beside the checkout; skip where it is absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not (folder / "ham10000" / "HAM10000_metadata").is_file():
        pytest.skip(f"real images are not at hand ({folder.name} beside the checkout is absent)")
    return folder

"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]

# "fixed" draws the same examples on every run; HYPOTHESIS_PROFILE=random explores, to look for new failures.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, database=None, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("random", max_examples=300, print_blob=True, **_COMMON)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the real models and data: $OCTET_SHARED, else ``shared`` beside the checkout."""
    folder = Path(os.environ.get("OCTET_SHARED") or REPOSITORY.parent / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"no real models: {folder}/models is not a folder (set OCTET_SHARED to the one that holds them)")
    return folder

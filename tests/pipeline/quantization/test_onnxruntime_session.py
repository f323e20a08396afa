"""The float model in onnxruntime."""

from __future__ import annotations

import sys

import pytest

from pipeline.errors import OctetError
from pipeline.quantization.onnxruntime_session import Session
from tests.pipeline.frontend.models import qdq_model


def test_missing_onnxruntime_is_named(monkeypatch):
    """The advice named an extra of the package `octet`, which on PyPI is somebody else's."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OctetError, match=r"pip install onnxruntime$"):
        Session(qdq_model())

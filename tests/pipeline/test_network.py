"""A model file as a function; how it fills up batches is tested with the accuracy."""

from __future__ import annotations

import sys

import pytest

from pipeline.errors import OctetError
from pipeline.network import open_network
from tests.pipeline.frontend.models import qdq_model, save


def test_missing_onnxruntime_is_named(tmp_path, monkeypatch):
    """The advice named an extra of the package `octet`, which on PyPI is somebody else's."""
    path = save(qdq_model(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OctetError, match=r"pip install onnxruntime$"):
        open_network(path)

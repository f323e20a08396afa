"""Every exception Octet raises on purpose. Catch :class:`OctetError` to catch them all."""

from __future__ import annotations


class OctetError(Exception):
    """Base class. The message says what is wrong, where, and what to do."""


class ModelError(OctetError):
    """The ONNX model cannot be read, is not valid, or holds values that have no meaning."""


class UnsupportedOperatorError(ModelError):
    """The model is valid but has operators that cannot be compiled as asked; the message lists all of them."""


class TargetError(OctetError):
    """The deploy target is unknown or cannot be built for on this machine."""


class CompileError(OctetError):
    """Code generation or linking failed."""


class TuneError(OctetError):
    """The schedule search cannot run here, or its records are damaged or of another target."""


class InputError(OctetError):
    """The data given to a model has the wrong name, shape, dtype or content."""


class LibraryError(OctetError):
    """The shared library is not Octet's, is damaged, or was built for another CPU or version."""

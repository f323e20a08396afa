"""Which settings the accuracy study measures: one Row each, gathered in studies that answer one question each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.quantization import OBSERVERS
from pipeline.quantization.options import Options

FLOAT, OCTET, ONNXRUNTIME = "FP32", "Octet", "onnxruntime"
DEFAULT_OBSERVER = Options().observer
NARROW_BITS = (4, 3, 2)


@dataclass(frozen=True)
class Row:
    """One way to quantise a model; the fields that follow ``method`` mean nothing for FP32."""

    quantizer: str = OCTET
    method: str = DEFAULT_OBSERVER
    """Octet's observer, or onnxruntime's calibration method."""
    symmetric: bool = False
    granularity: str = "per-channel"
    bits: int = 8
    """Of the weights; activations have 8."""
    weight_range: str = "minmax"
    """How the range of a weight tensor is chosen; the default at 8 bits is minmax, and output below."""

    @property
    def name(self) -> str:
        """Short, unique, and what --rows takes."""
        if self.quantizer == FLOAT:
            return FLOAT
        words = [self.method if self.quantizer == OCTET else f"{self.quantizer} {self.method}"]
        words += ["symmetric"] * self.symmetric + ["per-tensor"] * (self.granularity == "per-tensor")
        return " ".join(words + [f"w{self.bits} {self.weight_range}"] * (self.bits < 8))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}


REFERENCE = Row(FLOAT, FLOAT)
DEFAULT = Row()
MINMAX = Row(method="minmax")
PEERS = (Row(ONNXRUNTIME, "MinMax"), Row(ONNXRUNTIME, "Entropy"))


def _narrow() -> tuple[Row, ...]:
    """The fewer bits, the more it matters how a weight's range is chosen, and for how many weights at once."""
    rows = []
    for bits in NARROW_BITS:
        for granularity in ("per-channel", "per-tensor"):
            rows += [
                Row(method="minmax", granularity=granularity, bits=bits, weight_range="minmax"),
                Row(granularity=granularity, bits=bits, weight_range="output"),
            ]
            if bits == 4:
                rows += [
                    Row(method="histogram-l2", granularity=granularity, bits=bits, weight_range="output"),
                    # Only the range of the weights differs from the default.
                    *(Row(granularity=granularity, bits=bits, weight_range=name) for name in ("minmax", "mse")),
                ]
    return tuple(rows)


STUDIES: dict[str, tuple[Row, ...]] = {
    "peers": (DEFAULT, MINMAX, *PEERS),
    "observers": tuple(Row(method=name) for name in OBSERVERS),
    "granularity": (
        DEFAULT,
        Row(symmetric=True),
        Row(granularity="per-tensor"),
        Row(symmetric=True, granularity="per-tensor"),
        Row(ONNXRUNTIME, "MinMax", granularity="per-tensor"),
    ),
    "bits": (
        DEFAULT,
        MINMAX,
        Row(granularity="per-tensor"),
        Row(method="minmax", granularity="per-tensor"),
        *_narrow(),
    ),
}
"""By name: Octet beside onnxruntime; every observer; symmetry and scales; narrow weights."""


def rows_of(studies: list[str]) -> list[Row]:
    """The rows of the named studies, each once, in the order of :data:`STUDIES`."""
    return list(dict.fromkeys(row for name, rows in STUDIES.items() if name in studies for row in rows))

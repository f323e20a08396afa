"""OpenVINO's CPU plug-in, set for latency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.engines.base import Engine, Runner


class _OpenVino(Engine):
    packages = ("openvino",)
    distributions = ("openvino",)

    def load(self, artefact: Path, threads: int, variant: str | None = None) -> Runner:  # noqa: ARG002
        import openvino

        core = openvino.Core()
        # The f32 hint keeps what is not quantised out of bf16, which would be another network than the others run.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled: dict[tuple[int, ...], Any] = {}

        def run(x: np.ndarray) -> Any:
            if x.shape not in compiled:  # static shapes are faster, and the first input tells them
                model = core.read_model(artefact)
                model.reshape(list(x.shape))
                compiled[x.shape] = core.compile_model(model, "CPU", settings).create_infer_request()
            return compiled[x.shape].infer([x], share_inputs=True, share_outputs=True)

        return run


class OpenVinoInt8(_OpenVino):
    name = "openvino-int8"
    precision = "int8"
    kind = "qdq"


class OpenVinoFp32(_OpenVino):
    name = "openvino-fp32"
    precision = "fp32"
    kind = "fp32"

"""onnxruntime: all optimisations, intra-operator threads alone."""

from __future__ import annotations

from pathlib import Path

from experiments.engines.base import Engine, Runner


class _OnnxRuntime(Engine):
    packages = ("onnxruntime",)
    distributions = ("onnxruntime",)
    needs_avx512 = "its kernels choose by the CPU alone, no switch holds them to AVX2"

    def load(self, artefact: Path, threads: int, variant: str | None = None) -> Runner:  # noqa: ARG002
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})


class OnnxRuntimeInt8(_OnnxRuntime):
    name = "onnxruntime-int8"
    precision = "int8"
    kind = "qdq"


class OnnxRuntimeFp32(_OnnxRuntime):
    name = "onnxruntime-fp32"
    precision = "fp32"
    kind = "fp32"

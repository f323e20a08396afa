"""ncnn in INT8, on a calibration table that Octet's quantiser makes of the images the QDQ files are calibrated on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engines.base import Engine, Runner


class NcnnInt8(Engine):
    """ncnn knows no batches: its images run one after the other, on all threads."""

    name = "ncnn-int8"
    precision = "int8"
    kind = "fp32"
    packages = ("ncnn",)
    distributions = ("ncnn",)
    needs_avx512 = "its kernels choose by the CPU alone, no switch holds them to AVX2"

    @classmethod
    def prepare(cls, model: Path, output: Path, batch: int, target: str, threads: Sequence[int]) -> Path:  # noqa: ARG003
        """The .param file, the weights beside it; not written again once it is there."""
        import onnx

        import pipeline
        from experiments import zoo
        from experiments.ncnn_files import NcnnFiles
        from experiments.synthetic_images import smooth_images
        from pipeline.quantization import table_of_model

        stem = output / f"{cls.name}-{model.stem}"
        if not stem.with_suffix(".param").exists():
            output.mkdir(parents=True, exist_ok=True)
            network = onnx.load(model)
            images = smooth_images(zoo.CALIBRATION_IMAGES, seed=zoo.SEED)
            feeds = [{network.graph.input[0].name: image[None]} for image in images]
            symmetric = pipeline.quantize(
                model,
                feeds,
                output=stem.with_suffix(".onnx"),
                observer="minmax",
                activations="s8",
                symmetric=True,
                bias_correction=False,
            )
            partial = stem.with_name(f".{os.getpid()}-{stem.name}")
            for path in reversed(NcnnFiles(network, table_of_model(symmetric)).save(partial)):
                path.replace(stem.with_suffix(path.suffix))
        return stem.with_suffix(".param")

    def load(self, artefact: Path, threads: int, variant: str | None = None) -> Runner:  # noqa: ARG002
        import ncnn

        net = ncnn.Net()
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.num_threads = threads
        if net.load_param(str(artefact)) or net.load_model(str(artefact.with_suffix(".bin"))):
            raise RuntimeError(f"ncnn {ncnn.__version__} does not load {artefact}")

        def run(x: np.ndarray) -> list[Any]:
            return [_run(ncnn, net, image) for image in x]

        return run


def _run(ncnn: Any, net: Any, image: np.ndarray) -> np.ndarray:
    extractor = net.create_extractor()
    extractor.input("input", ncnn.Mat(image))
    status, result = extractor.extract("output")
    if status:
        raise RuntimeError(f"ncnn cannot run the network: status {status}")
    return np.array(result)

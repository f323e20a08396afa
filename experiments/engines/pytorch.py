"""PyTorch, FP32 and INT8, each compiled in the ways it offers; the fastest of them is what runs.

INT8 of TorchScript is ``quantize_fx`` with the engine x86: 7-bit activations, which its AVX2 kernels need not to
saturate. INT8 of AOTInductor is torchao's PT2E quantisation for x86, weights frozen. Both calibrate on the images that
the zoo's QDQ files are calibrated on.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments import zoo
from experiments.engines.base import Engine, Runner
from experiments.synthetic_images import smooth_images
from experiments.torch_network import RELU6, torch_network

CHOICE_ROUNDS = 7

Network = Any
"""A torch module, or what else takes an NCHW tensor."""


class _PyTorch(Engine):
    """``artefact`` is a folder: a file for each way and thread count, and which way was the fastest."""

    kind = "fp32"
    packages: tuple[str, ...] = ("torch",)
    distributions: tuple[str, ...] = ("torch",)

    def __init__(self) -> None:
        self._variant: str | None = None

    def variant(self) -> str | None:
        return self._variant

    @classmethod
    def ways(cls) -> dict[str, Callable[[Path, Path, Any], None]]:
        """By name and file suffix: functions of the model, the file to write and an example input (NCHW)."""
        raise NotImplementedError

    @classmethod
    def prepare(cls, model: Path, output: Path, batch: int, target: str, threads: Sequence[int]) -> Path:  # noqa: ARG003
        """Inductor's code has its thread count and vector width inside, so there is a file for each.

        A folder that is complete is not made again: delete it after a change here.
        """
        import torch

        folder = output / f"{cls.name}-{torch.__version__}-{model.stem}-b{batch}"
        folder.mkdir(parents=True, exist_ok=True)
        for count in threads:
            choice = folder / f"threads-{count}.json"
            if choice.exists():
                continue
            torch.set_num_threads(count)
            # Strides of channels_last; the network is traced with them.
            example = torch.from_numpy(_images(batch)).contiguous(memory_format=torch.channels_last)
            made = []
            for suffix, make in cls.ways().items():
                path = folder / f"threads-{count}.{suffix}"
                try:
                    with torch.no_grad():
                        make(model, path, example)
                    made.append(path)
                except Exception as error:  # noqa: BLE001  # one way that fails leaves the others
                    print(f"{cls.name}: {path.name}: {type(error).__name__}: {error}", file=sys.stderr)
            if not made:
                raise RuntimeError("none of PyTorch's ways works on this network; the reasons are above")
            times = _compare([cls._open(path) for path in made], _images(batch))
            fastest = made[times.index(min(times))].name
            milliseconds = {path.name: round(1e3 * t, 3) for path, t in zip(made, times, strict=True)}
            choice.write_text(json.dumps({"fastest": fastest, "milliseconds": milliseconds}), encoding="utf-8")
        return folder

    def load(self, artefact: Path, threads: int) -> Runner:
        import torch

        torch.set_num_threads(threads)
        fastest = json.loads((artefact / f"threads-{threads}.json").read_text(encoding="utf-8"))["fastest"]
        self._variant = {".pt": "TorchScript", ".pt2": "AOTInductor"}[Path(fastest).suffix]
        return self._open(artefact / fastest)

    @classmethod
    def _open(cls, path: Path) -> Runner:
        import torch
        import torch._inductor

        network = torch._inductor.aoti_load_package(str(path)) if path.suffix == ".pt2" else cls._open_script(path)

        def run(x: np.ndarray) -> Any:
            with torch.inference_mode():
                return network(torch.from_numpy(x).contiguous(memory_format=torch.channels_last))

        return run

    @classmethod
    def _open_script(cls, path: Path) -> Network:
        import torch

        return torch.jit.load(str(path))


class PyTorchFp32(_PyTorch):
    name = "pytorch-fp32"
    precision = "fp32"

    @classmethod
    def ways(cls) -> dict[str, Callable[[Path, Path, Any], None]]:
        return {"pt2": partial(_inductor, _float_network), "pt": partial(_script, _float_network)}

    @classmethod
    def _open_script(cls, path: Path) -> Network:
        import torch

        # Not before the file is written: oneDNN's blocked weights cannot be.
        return torch.jit.optimize_for_inference(super()._open_script(path))


class PyTorchInt8(_PyTorch):
    name = "pytorch-int8"
    precision = "int8"
    packages = ("torch", "torchao")
    distributions = ("torch", "torchao")

    @classmethod
    def ways(cls) -> dict[str, Callable[[Path, Path, Any], None]]:
        return {"pt2": partial(_inductor, _pt2e_network), "pt": partial(_script, _fx_network)}

    @classmethod
    def import_packages(cls) -> None:
        import torch  # noqa: F401  # torchao quantises; running needs torch alone


def _float_network(model: Path, example: Any) -> Network:  # noqa: ARG001
    import torch

    return torch_network(model).to(memory_format=torch.channels_last)


def _fx_network(model: Path, example: Any) -> Network:
    """Quantised by ``quantize_fx``.

    Its kernels fuse a ReLU into the convolution, but no ReLU6. So ReLU6 becomes ReLU, and what the observers see is
    clamped to 6 instead: quantised, the range ends there, and saturation clamps for nothing.
    """
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    network = torch_network(model)
    clamped = [name for name, module in network.named_modules() if isinstance(module, torch.nn.ReLU6)]
    for name in clamped:
        setattr(network, name, torch.nn.ReLU())
    before = {node.target: str(node.args[0].target) for node in network.graph.nodes if node.target in clamped}
    prepared = prepare_fx(network, get_default_qconfig_mapping("x86"), (example,))
    hooks = [
        prepared.get_submodule(convolution).register_forward_hook(lambda _module, _inputs, y: y.clamp(max=RELU6))
        for convolution in before.values()
    ]
    for image in _calibration_images():
        prepared(image)
    for hook in hooks:
        hook.remove()
    return convert_fx(prepared).to(memory_format=torch.channels_last)


def _pt2e_network(model: Path, example: Any) -> Network:
    """Quantised by torchao, for Inductor."""
    import torch
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    exported = torch.export.export(_float_network(model, example), (example,)).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    for image in _calibration_images():
        prepared(image.expand_as(example))
    return convert_pt2e(prepared)


def _inductor(make: Callable[[Path, Any], Network], model: Path, path: Path, example: Any) -> None:
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    exported = torch.export.export(make(model, example), (example,))
    torch._inductor.aoti_compile_and_package(exported, package_path=str(path))


def _script(make: Callable[[Path, Any], Network], model: Path, path: Path, example: Any) -> None:
    import torch

    torch.jit.freeze(torch.jit.trace(make(model, example), example)).save(str(path))


def _compare(runners: Sequence[Runner], x: np.ndarray) -> list[float]:
    """Median seconds of each, in turns."""
    times: list[list[float]] = [[] for _ in runners]
    for _round, (runner, mine) in itertools.product(range(CHOICE_ROUNDS), zip(runners, times, strict=True)):
        runner(x)
        start = time.perf_counter()
        runner(x)
        mine.append(time.perf_counter() - start)
    return [statistics.median(mine) for mine in times]


def _images(count: int) -> np.ndarray:
    return smooth_images(count, seed=count)


def _calibration_images() -> Any:
    import torch

    return torch.from_numpy(smooth_images(zoo.CALIBRATION_IMAGES, seed=zoo.SEED)).split(1)

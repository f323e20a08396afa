"""PyTorch, FP32 and INT8, compiled ahead in the ways it offers.

INT8 of TorchScript is ``quantize_fx`` with the engine x86: 7-bit activations, which its AVX2 kernels need not to
saturate. INT8 of AOTInductor is torchao's PT2E quantisation for x86, weights frozen. Both calibrate on the images that
the zoo's QDQ files are calibrated on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import zoo
from experiments.engines.base import Engine, Runner
from experiments.synthetic_images import smooth_images
from experiments.torch_network import RELU6, torch_network

SCRIPT, INDUCTOR = "TorchScript", "AOTInductor"

Network = Any
"""A torch module, or what else takes an NCHW tensor."""

Make = Callable[[Path, Any], Network]
"""The network of an FP32 file, to be traced with an example input."""


class _PyTorch(Engine):
    """Prepares a folder, with a file for each way."""

    kind = "fp32"
    packages: tuple[str, ...] = ("torch",)
    distributions: tuple[str, ...] = ("torch",)
    variants = (SCRIPT, INDUCTOR)

    @classmethod
    def network(cls, variant: str) -> Make:
        """What is compiled in the way ``variant``."""
        raise NotImplementedError

    @classmethod
    def prepare(cls, model: Path, output: Path, batch: int, target: str, threads: Sequence[int]) -> Path:  # noqa: ARG003
        """A file that exists is not made again: delete the folder after a change here."""
        import torch

        folder = output / f"{cls.name}-{torch.__version__}-{model.stem}-b{batch}"
        folder.mkdir(parents=True, exist_ok=True)
        # Strides of channels_last; the network is traced with them.
        example = torch.from_numpy(smooth_images(batch)).contiguous(memory_format=torch.channels_last)
        for variant in cls.variants:
            # Inductor's code has its thread count inside.
            for count in threads if variant == INDUCTOR else [1]:
                torch.set_num_threads(count)
                path = _file(folder, variant, count)
                if path.exists():
                    continue
                partial = path.with_name(f"partial-{path.name}")
                try:
                    with torch.no_grad():
                        (_inductor if variant == INDUCTOR else _script)(cls.network(variant), model, partial, example)
                except Exception as error:  # noqa: BLE001  # one way that fails leaves the others; load tells
                    print(f"{cls.name}: {path}: {type(error).__name__}: {error}", file=sys.stderr)
                    continue
                partial.replace(path)
        return folder

    def load(self, artefact: Path, threads: int, variant: str | None = None) -> Runner:
        import torch
        import torch._inductor

        torch.set_num_threads(threads)
        path = _file(artefact, variant or SCRIPT, threads)
        if not path.exists():
            raise FileNotFoundError(f"{variant} could not compile this network; the reason is in the log")
        network = torch._inductor.aoti_load_package(str(path)) if variant == INDUCTOR else self._open_script(path)

        def run(x: np.ndarray) -> Any:
            with torch.inference_mode():
                return network(torch.from_numpy(x).contiguous(memory_format=torch.channels_last))

        return run

    def _open_script(self, path: Path) -> Network:
        import torch

        return torch.jit.load(str(path))


class PyTorchFp32(_PyTorch):
    name = "pytorch-fp32"
    precision = "fp32"

    @classmethod
    def network(cls, variant: str) -> Make:  # noqa: ARG003
        return _float_network

    def _open_script(self, path: Path) -> Network:
        import torch

        # Not before the file is written: oneDNN's blocked weights cannot be.
        return torch.jit.optimize_for_inference(super()._open_script(path))


class PyTorchInt8(_PyTorch):
    name = "pytorch-int8"
    precision = "int8"
    packages = ("torch", "torchao")
    distributions = ("torch", "torchao")

    @classmethod
    def network(cls, variant: str) -> Make:
        return {SCRIPT: _fx_network, INDUCTOR: _pt2e_network}[variant]

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


def _inductor(make: Make, model: Path, path: Path, example: Any) -> None:
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True
    exported = torch.export.export(make(model, example), (example,))
    torch._inductor.aoti_compile_and_package(exported, package_path=str(path))


def _script(make: Make, model: Path, path: Path, example: Any) -> None:
    import torch

    torch.jit.freeze(torch.jit.trace(make(model, example), example)).save(str(path))


def _file(folder: Path, variant: str, threads: int) -> Path:
    return folder / (f"threads-{threads}.pt2" if variant == INDUCTOR else "script.pt")


def _calibration_images() -> Any:
    import torch

    return torch.from_numpy(smooth_images(zoo.CALIBRATION_IMAGES, seed=zoo.SEED)).split(1)

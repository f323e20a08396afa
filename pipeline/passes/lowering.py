"""The compile path between the front end and code generation, as a list of phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tvm

from pipeline.errors import CompileError
from pipeline.passes.assign_layout import assign_layout
from pipeline.passes.emit_kernels import Configure, emit_kernels
from pipeline.passes.fuse_epilogues import fuse_epilogues
from pipeline.passes.images import compute_images_in_turn
from pipeline.passes.input_alignment import accept_unaligned_inputs
from pipeline.targets import DeployTarget
from schedules.convolution import default_configuration

Phase = tuple[str, Callable[[tvm.IRModule], tvm.IRModule]]


def kernel_phases(target: DeployTarget, configure: Configure = default_configuration) -> list[Phase]:
    """The phases after the integer lowering, in order; ``configure`` chooses the schedules of the convolutions."""
    return [
        # Integer operators, one for each of the model's.
        ("fuse-epilogues", fuse_epilogues),
        # Fewer integer operators, still in the model's layout.
        ("assign-layout", assign_layout),
        # Stored activations between explicit changes of layout.
        ("images-in-turn", lambda module: compute_images_in_turn(module, target, configure)),
        # Of a large batch, one call for all that happens image by image, with kernels; the rest as before.
        ("emit-kernels", lambda module: emit_kernels(module, target, configure)),
        # Scheduled TensorIR functions, called in turn.
        ("unaligned-inputs", accept_unaligned_inputs),
    ]


def run_phases(module: tvm.IRModule, phases: list[Phase], dump: IRDump) -> tvm.IRModule:
    """``module`` after all ``phases``, each written to ``dump``."""
    for name, phase in phases:
        module = phase(module)
        dump.write(name, module)
    return module


class IRDump:
    """Writes the module after each phase to a folder, numbered; nothing where there is no folder.

    Raises :class:`CompileError` where the folder cannot be made or written to.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0
        if folder is not None:
            with _told_as_compile_error(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def write(self, phase: str, module: tvm.IRModule) -> None:
        """Write ``module`` as TVMScript, without the values of its constants."""
        if self._folder is not None:
            path = self._folder / f"{self._count:02d}-{phase}.py"
            with _told_as_compile_error(path):
                path.write_text(module.script(show_meta=False), encoding="utf-8")
        self._count += 1


@contextmanager
def _told_as_compile_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CompileError(
            f"cannot write the IR to {path}: {error.strerror or error}; give another folder for it (--dump-ir)"
        ) from error

"""Small compiled libraries, made by hand, so that packaging, runtime and command line are tested without a compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.package import package
from pipeline.runtime import Quantization, Signature, TensorInfo
from pipeline.targets import resolve

SHA = "0" * 63 + "1"

AFFINE = Signature((TensorInfo("x", (4, 1024), "float32"),), (TensorInfo("y", (4, 1024), "float32"),))
PAIR = Signature(
    (TensorInfo("a", (2, 3), "int8", Quantization(0.5, 3)), TensorInfo("b", (2, 3), "int8")),
    tuple(TensorInfo(name, (2, 3), "int8") for name in ("sum", "same", "constant")),
)
BUSY = Signature((TensorInfo("x", (64,), "float32"),), (TensorInfo("y", (64,), "float32"),))
IMAGE = Signature((TensorInfo("image", (1, 3, 8, 6), "float32"),), (TensorInfo("scores", (1, 144), "float32"),))


def _function(*arguments: Any, loops: Any) -> Any:
    from tvm import te
    from tvm.s_tir import Schedule

    schedule = Schedule(te.create_prim_func(list(arguments)))
    loops(schedule, schedule.get_loops(schedule.get_sblock("out")))
    return schedule.mod["main"].without_attr("global_symbol").with_attr("tirx.is_scheduled", True)


def affine_function() -> Any:
    """y = 2 x + 1 in parallel, with vectors that need aligned addresses."""
    from tvm import te

    x = te.placeholder((4, 1024), "float32", "x")

    def loops(schedule: Any, axes: Any) -> None:
        _, lanes = schedule.split(axes[1], [None, 16])
        schedule.parallel(axes[0])
        schedule.vectorize(lanes)

    return _function(x, te.compute((4, 1024), lambda i, j: x[i, j] * 2.0 + 1.0, "out"), loops=loops)


def busy_function() -> Any:
    """Some milliseconds of arithmetic that no compiler can shorten, in parallel."""
    from tvm import te, tirx

    x = te.placeholder((64,), "float32", "x")
    k = te.reduce_axis((0, 20_000), "k")
    out = te.compute((64,), lambda i: te.sum(tirx.sqrt(x[i] + k.astype("float32")), axis=k), "out")

    return _function(x, out, loops=lambda schedule, axes: schedule.parallel(axes[0]))


def executable(signature: Signature) -> Any:
    """The compiled Relax module of one of the signatures above."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    variables = [relax.Var(info.name, relax.TensorType(info.shape, info.dtype)) for info in signature.inputs]
    with builder.function("main", variables):
        with builder.dataflow():
            if signature is PAIR:
                constant = relax.const(np.arange(6, dtype="int8").reshape(2, 3))
                total = builder.emit(relax.op.add(*variables))
                result = builder.emit_output(relax.Tuple([total, variables[0], constant]))
            elif signature is IMAGE:
                result = builder.emit_output(relax.op.reshape(variables[0], (1, 144)))
            else:
                function = builder.add_func((affine_function if signature is AFFINE else busy_function)(), "kernel")
                info = signature.outputs[0]
                result = builder.emit_output(
                    relax.call_tir(function, variables, relax.TensorType(info.shape, info.dtype))
                )
        builder.emit_func_output(result)
    return tvm.compile(builder.get(), target=resolve("native").tvm_target())


@pytest.fixture(scope="session")
def affine_executable() -> Any:
    """What ``tvm.compile`` gives for the affine network."""
    return executable(AFFINE)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory, affine_executable: Any) -> dict[str, Path]:
    """Four libraries: ``affine`` (parallel), ``pair`` (two inputs, three outputs), ``busy`` (slow), ``image``."""
    folder = tmp_path_factory.mktemp("libraries")
    made = {}
    for name, signature in {"affine": AFFINE, "pair": PAIR, "busy": BUSY, "image": IMAGE}.items():
        built = affine_executable if name == "affine" else executable(signature)
        made[name] = package(
            built, resolve("native"), signature, model_sha256=SHA, model_file=f"/models/{name}.onnx",
            output=folder / f"{name}.so", integer_operators=1, float_operators=2, options={"batch": 1},
        )  # fmt: skip
    return made

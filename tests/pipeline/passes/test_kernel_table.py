"""What the manifest says of a library's kernels."""

from __future__ import annotations

import numpy as np
import onnx
import tvm
from tvm import relax

import pipeline
from pipeline.passes.kernel_table import KernelTable
from pipeline.runtime import Kernel, read_manifest
from pipeline.targets import resolve
from tests.pipeline.passes.integer.qdq import Model, codes


def compiled(module: tvm.IRModule, names: dict[str, str]) -> tuple[Kernel, ...]:
    table = KernelTable()
    with tvm.transform.PassContext(instruments=[table]):
        tvm.compile(module, target=resolve("llvm").tvm_target())
    return table.kernels(names)


def test_integer_network(tmp_path):
    """A convolution that is fused and whose channels are padded still counts the model's own products, once."""
    model = Model()
    image = model.qdq(model.input((1, 3, 8, 8)), 0.1)
    weight = model.weight(codes((16, 3, 3, 3), "int8"), 0.01)
    conv = model.op("Conv", image, weight, pads=[1, 1, 1, 1])
    model.output(model.qdq(model.op("Relu", conv), 0.2), "float32")
    path = tmp_path / "m.onnx"
    onnx.save(model.build(), path)
    first, middle, last = read_manifest(pipeline.compile(path, "llvm", output=tmp_path / "m.so")).kernels
    assert middle.name.startswith("conv2d_n1g1ic3ih8iw8oc16oh8ow8kh3kw3")
    assert middle.node in {node.name for node in model.nodes}
    assert [kernel.macs for kernel in (first, middle, last)] == [0, 8 * 8 * 16 * 3 * 3 * 3, 0]
    assert (first.weight_bytes, last.weight_bytes) == (0, 0)
    assert middle.weight_bytes >= 16 * 3 * 3 * 3
    assert (first.read_bytes, last.written_bytes) == (3 * 8 * 8 * 4, 16 * 8 * 8 * 4)
    assert (first.written_bytes, middle.written_bytes) == (middle.read_bytes, last.read_bytes)


def test_steps_of_a_batch(tmp_path):
    """What runs image by image is one call, and its kernels are told with the names of the model's nodes."""
    model = Model()
    image = model.qdq(model.input((9, 16, 8, 8)), 0.1)
    for _ in range(2):
        conv = model.op("Conv", image, model.weight(codes((16, 16, 3, 3), "int8"), 0.01), pads=[1, 1, 1, 1])
        image = model.qdq(conv, 0.2)
    model.output(image, "float32")
    path = tmp_path / "m.onnx"
    onnx.save(model.build(), path)
    (trunk, *others) = read_manifest(pipeline.compile(path, "llvm", output=tmp_path / "m.so")).kernels
    convolutions = [step for step in trunk.steps if step.macs]
    assert [step.macs for step in convolutions] == [8 * 8 * 16 * 16 * 3 * 3] * 2
    assert trunk.macs == 9 * sum(step.macs for step in convolutions)
    assert {step.images for step in trunk.steps} == {9}
    assert {step.node for step in convolutions} == {node.name for node in model.nodes if node.op_type == "Conv"}
    assert not any(kernel.steps for kernel in others)


def test_float_network():
    """Kernels that TVM makes of float operators: the products of a matrix are counted, those of a scaling are not.

    TVM writes a scalar into the code, so that it is no operand.
    """
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            scaled = builder.emit(relax.op.multiply(x, relax.const(np.float32(3))), "scaled")
            product = builder.emit(relax.op.matmul(scaled, relax.const(np.ones((8, 5), "float32"))), "product")
            output = builder.emit_output(relax.op.nn.relu(product))
        builder.emit_func_output(output)
    kernels = compiled(builder.get(), {"product": "/fc/MatMul"})
    assert kernels[:2] == (
        Kernel("multiply", "scaled", macs=0, weight_bytes=0, read_bytes=64, written_bytes=64),
        Kernel("matmul", "/fc/MatMul", macs=2 * 8 * 5, weight_bytes=160, read_bytes=64, written_bytes=40),
    )
    assert [kernel.name for kernel in kernels[2:]] == ["relu"]


def test_function_of_the_runtime_library():
    """Sorting is no kernel of the module: it has a name of its own, and several results."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 8), "float32"))
    results = [relax.TensorType((2, 3), "float32"), relax.TensorType((2, 3), "int64")]
    with builder.function("main", [x]):
        with builder.dataflow():
            top = builder.emit_output(relax.call_dps_packed("library.sort", [x], results))
        builder.emit_func_output(top)
    assert compiled(builder.get(), {}) == (
        Kernel("library.sort", top.name, macs=0, weight_bytes=0, read_bytes=2 * 8 * 4, written_bytes=2 * 3 * (4 + 8)),
    )

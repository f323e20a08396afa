"""The sums of a convolution stay in registers: LLVM's assembly of the inner loops, read.

A tile that spills still gives the right numbers, at a third of the speed, and it depends on what surrounds the loop: a
tile that stays in registers by itself may spill in a parallel loop.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache

import pytest
import tvm

from pipeline.passes.kernel_lowering import KERNEL_LOWERING
from pipeline.targets import PRESETS
from schedules import convolution, packed_tile
from schedules.compute.arithmetic import Output
from schedules.compute.conv2d import Conv2d
from schedules.compute.stages import Add, Stage
from schedules.intrinsics.x86 import DOT_PRODUCTS, DotProduct
from tests.schedules.problem import parse

RESNET50 = [
    "ic3ih224oc64kh7sh2",
    "ic64ih56oc64kh1",
    "ic64ih56oc64kh3",
    "ic64ih56oc256kh1",
    "ic64ih56oc256kh1_+add",
    "ic256ih56oc64kh1",
    "ic256ih56oc128kh1",
    "ic128ih56oc128kh3sh2",
    "ic256ih56oc512kh1sh2",
    "ic128ih28oc512kh1_+add",
    "ic512ih28oc128kh1",
    "ic128ih28oc128kh3",
    "ic512ih28oc256kh1",
    "ic256ih28oc256kh3sh2",
    "ic512ih28oc1024kh1sh2",
    "ic256ih14oc1024kh1_+add",
    "ic1024ih14oc256kh1",
    "ic256ih14oc256kh3",
    "ic1024ih14oc512kh1",
    "ic512ih14oc512kh3sh2",
    "ic1024ih14oc2048kh1sh2",
    "ic512ih7oc2048kh1_+add",
    "ic2048ih7oc512kh1",
    "ic512ih7oc512kh3",
]

# Half the registers, other tiles: a sample.
SAMPLE = ["ic64ih56oc64kh3", "ic256ih56oc128kh1", "ic256ih14oc1024kh1_+add", "ic256ih14oc256kh3", "ic512ih7oc512kh3"]

INSTRUCTION = {"llvm-avx512-vnni": "vpdpbusd", "llvm-avxvnni": "vpdpbusd", "llvm-avx2": "vpmaddwd"}
CASES = {"llvm-avx512-vnni": RESNET50, "llvm-avxvnni": SAMPLE, "llvm-avx2": SAMPLE}

RESIDUAL = Add(3, 5, 0.01, 0, 0, Output())


def _problem(text: str) -> Conv2d:
    parts = parse(f"conv_{text}")
    ic, size, oc, kernel, stride = (parts.number(name, 1) for name in ("ic", "ih", "oc", "kh", "sh"))
    stages: tuple[Stage, ...] = (RESIDUAL,) if parts.stages else ()
    return Conv2d(
        n=1,
        h=size,
        w=size,
        ic=ic,
        oc=oc,
        x_channels=max(ic, 4),
        kernel=(kernel, kernel),
        strides=(stride, stride),
        padding=(kernel // 2,) * 4,
        dilation=(1, 1),
        groups=1,
        x_zero_point=128,
        weight_dtype="int8",
        window_sum=False,
        output=Output(),
        stages=stages,
    )


def _symbol(text: str) -> str:
    return text.replace("_+", "_")


def _kernel(problem: Conv2d, dot: DotProduct) -> tvm.tirx.PrimFunc:
    return convolution.build(problem, dot, convolution.default_configuration(problem, dot))


def _tile_size(problem: Conv2d, dot: DotProduct) -> int:
    """Vectors of sums that the default configuration holds."""
    knobs = dict(convolution.default_configuration(problem, dot).knobs)
    return knobs["pixels"] * knobs.get("blocks", knobs.get("slices", 0) * packed_tile.VECTORS or 1)


@cache
def _loops(target_name: str) -> dict[str, list[list[str]]]:
    """The instructions of each innermost loop, by function, for all cases of a target."""
    target = PRESETS[target_name]
    dot, tvm_target = DOT_PRODUCTS[target.dot], target.tvm_target()
    kernels = {_symbol(text): _kernel(_problem(text), dot) for text in CASES[target_name]}
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in kernels.items()})
    with tvm_target:
        library = tvm.tirx.build(module, target=tvm_target, pipeline=KERNEL_LOWERING)
    loops: dict[str, list[list[str]]] = defaultdict(list)
    function, label = "", ""
    block: list[str] = []
    for line in library.inspect_source("asm").splitlines():
        if start := re.match(r"([\w.$]+):", line):
            label, block = start[1], []
            function = function if label.startswith(".L") else label
        elif re.match(r"\t[^.]", line):
            block.append(line.strip())
            if jump := re.match(r"\tj\w+\s+(\S+)", line):
                if jump[1] == label:
                    loops[function].append(block)
                label, block = "", []
    return loops


@pytest.mark.parametrize(("target_name", "text"), [(target, text) for target, texts in CASES.items() for text in texts])
def test_sums_stay_in_registers(target_name: str, text: str) -> None:
    """Between the products of a loop nothing moves to the stack or back, and all sums of the tile are there."""
    loops = _loops(target_name)
    product = re.compile(rf"(\{{vex\}}\s+)?{INSTRUCTION[target_name]}\b")
    parallel = [name for name in loops if name.startswith(f"{_symbol(text)}_compute_")]
    assert parallel, "the convolution is not in a parallel loop, where spilling happens"
    size = _tile_size(_problem(text), DOT_PRODUCTS[PRESETS[target_name].dot])
    found = 0
    for loop in (loop for name in parallel for loop in loops[name]):
        products = sum(bool(product.match(line)) for line in loop)
        if products:
            found += 1
            assert products % size == 0, "the tile is not one block"
            spilled = [line for line in loop if "(%rsp)" in line and "mm" in line]
            assert not spilled, f"{len(spilled)} moves between registers and the stack, such as {spilled[0]!r}"
    assert found, f"no loop with {INSTRUCTION[target_name]} in the assembly"

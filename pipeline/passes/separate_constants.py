"""Take the large constants out of the executable, so that a program holds them in memory once.

TVM keeps constants inside the code, as bytes that are copied on loading: the file's pages, the section's text and the
tensors made of it would all be in memory. Here they become the last parameters of ``main``; the library file keeps
their bytes apart (:func:`pipeline.runtime.library.append_constants`), and the runtime binds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.pipeline import default_build_pipeline

from pipeline.ir.graph import Constant

LARGE = 4096
"""Bytes: smaller ones stay in the executable. An argument costs a little at every call, a copy of this size nothing."""


class SeparateConstants:
    """Give :meth:`pipeline` to one ``tvm.compile``; afterwards :attr:`arrays` are the last arguments of ``main``."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []

    def pipeline(self) -> tvm.ir.transform.Pass:
        """TVM's lowering of Relax, then this pass: parameters that it added before would be checked at every call."""
        separate = tvm.transform.module_pass(self._separate, opt_level=0, name="SeparateConstants")
        return tvm.transform.Sequential([default_build_pipeline(), separate])

    def _separate(self, module: tvm.IRModule, _context: Any) -> tvm.IRModule:
        variable = module.get_global_var("main")
        main = module[variable]
        found: list[tuple[Constant, relax.Var]] = []

        def visit(constant: Constant) -> Constant | relax.Var:
            value = constant.value
            if not isinstance(value, tvm.runtime.Tensor) or value.numpy().nbytes < LARGE:
                return constant
            for known, parameter in found:
                if known.same_as(constant):
                    return parameter
            found.append((constant, relax.Var(f"constant_{len(found)}", constant.ty)))
            self.arrays.append(np.ascontiguousarray(value.numpy()))
            return found[-1][1]

        main = tvm_ffi.structural_map(main, (Constant, visit), order="post")
        parameters = [*main.params, *(parameter for _, parameter in found)]
        changed = relax.Function(parameters, main.body, main.ret_ty, main.is_pure, main.attrs)
        return tvm.IRModule({**module.functions, variable: changed}, module.attrs)

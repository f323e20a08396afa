"""Times every call that TVM's virtual machine makes, from inside.

The machine calls its instrument before and after each call. A Python function costs microseconds there and turns over
the caches; this one is compiled code that writes the time into an array. With what the machine does
for it, that is some 0.4 microseconds a call, of which less than 0.05 fall between the two stamps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import tirx
from tvm.ir import Call, CallingConv, Op, PointerType, PrimType

from pipeline.errors import LibraryError
from pipeline.runtime import Model

_NAME = "octet_stamp"
_CLOCK_MONOTONIC = 1
_BUILTIN = "vm."
"""What the names of the virtual machine's own calls start with: memory, shapes, checks."""


def kernel_calls(model: Model, inputs: Any) -> list[str | None]:
    """The calls of one run in order: a kernel's name, or None for the virtual machine's own work.

    ``model`` keeps its instrument: give it another one before it is timed.
    """
    names: list[str | None] = []

    def note(_function: object, name: str, before: bool, _result: object, *_arguments: object) -> None:
        if before:
            names.append(None if name.startswith(_BUILTIN) else name)

    model.instrument(note)
    model(inputs)
    return names


class KernelClock:
    """An instrument that takes the time of ``calls`` calls: :meth:`restart`, run, then :meth:`nanoseconds`."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._stamps = np.zeros((1 + 2 * calls, 2), np.int64)
        """Number of stamps so far and an unused word; then seconds and nanoseconds of each stamp."""
        function = _stamp(self._stamps.ctypes.data, len(self._stamps))
        module = tvm.IRModule({f"__tvm_ffi_{_NAME}": function})
        self.instrument: Any = tvm.tirx.build(module, target=tvm.target.Target({"kind": "llvm"}))[_NAME]

    def restart(self) -> None:
        """Forget what was timed."""
        self._stamps[0, 0] = 0

    def nanoseconds(self) -> npt.NDArray[np.int64]:
        """Duration of each call since :meth:`restart`, (calls,).

        Raises:
            LibraryError: there were fewer calls, or more.
        """
        if self._stamps[0, 0] != 2 * self._calls:
            raise LibraryError(
                f"a run of the library made {self._stamps[0, 0] // 2} calls and the one before {self._calls}: "
                "a program whose course depends on its data cannot be profiled"
            )
        times = self._stamps[1:, 0] * 1_000_000_000 + self._stamps[1:, 1]
        return times[1::2] - times[::2]


def _stamp(address: int, size: int) -> tirx.PrimFunc:
    """A function in TVM's calling convention for compiled code, which ignores its arguments.

    It counts on after the array is full, so that it can be told, but writes nothing then.
    """

    def integer(value: int) -> tirx.Expr:
        return tirx.const(value, "int64")

    words = PointerType(PrimType("int64"))
    data = tirx.Var("data", words)
    stamps = tirx.decl_buffer((size, 2), "int64", name="stamps", data=data)
    count = tirx.BufferLoad(stamps, [integer(0), integer(0)])
    slot = tirx.address_of(tirx.BufferLoad(stamps, [count + integer(1), integer(0)]))
    clock = tirx.call_extern("int32", "clock_gettime", tirx.const(_CLOCK_MONOTONIC, "int32"), slot)
    body = [
        tirx.Bind(data, Call(Op.get("tirx.reinterpret"), [integer(address)], ret_ty=words)),
        tirx.DeclBuffer(stamps, data=data),
        tirx.IfThenElse(count < integer(size - 1), tirx.Evaluate(clock), None),
        tirx.BufferStore(stamps, count + integer(1), [integer(0), integer(0)]),
        tirx.Return(tirx.const(0, "int32")),
    ]
    types = {"self": "handle", "arguments": "handle", "number": "int32", "result": "handle"}
    parameters = [tirx.Var(name, dtype) for name, dtype in types.items()]
    function = tirx.PrimFunc(parameters, tirx.SeqStmt(body), PrimType("int32"))
    return function.with_attr({"global_symbol": f"__tvm_ffi_{_NAME}", "calling_conv": int(CallingConv.C_PACKED_FUNC)})

"""Keeps every library of this process from using more of the CPU than it should, so that engines meet on equal terms.

- AMX: a Linux process must ask the kernel for the tile registers (``arch_prctl(ARCH_REQ_XCOMP_PERM)``) before it uses
  them. A seccomp filter that refuses this one request makes every library believe that the machine has no AMX. The
  filter stays for the life of the process and of its children; nothing else is restricted.
- AVX-512: nothing can be refused there; the libraries' own environment variables are set, of which OpenVINO and PyTorch
  have some, onnxruntime and ncnn none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

ISA_TARGETS = {"amx": "llvm-amx", "avx512-vnni": "llvm-avx512-vnni", "avx2": "llvm-avx2"}
"""What engines can be held to, and the target of Octet's that uses it."""

# oneDNN (in OpenVINO and PyTorch), then what PyTorch has besides: its own kernels and Inductor's, FBGEMM, MKL.
_VARIABLES = {
    "avx512-vnni": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM

_AUDIT_ARCH_X86_64 = 0xC000003E
_SYS_ARCH_PRCTL = 158
_ARCH_GET_XCOMP_PERM = 0x1022
_ARCH_REQ_XCOMP_PERM = 0x1023
_TILE_DATA = 18

# Offsets in struct seccomp_data.
_NR, _ARCH, _ARGUMENT_0 = 0, 4, 16

# Classic BPF opcodes: load a 32-bit word, jump if equal, return.
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def hold_to(isa: str) -> None:
    """Hold this process to one of ISA_TARGETS. Call before an engine is imported; raises as ``deny_amx`` does."""
    if isa != "amx":
        deny_amx()
        os.environ.update(_VARIABLES[isa])


def deny_amx() -> None:
    """Call before the engine is imported. Raises OSError where the kernel refuses, RuntimeError off x86-64 Linux."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise RuntimeError("AMX can be denied on x86-64 Linux only; leave the limit out on this machine")
    program = b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, _ARCH),
            (_JUMP_EQUAL, 0, 5, _AUDIT_ARCH_X86_64),
            (_LOAD, 0, 0, _NR),
            (_JUMP_EQUAL, 0, 3, _SYS_ARCH_PRCTL),
            (_LOAD, 0, 0, _ARGUMENT_0),
            (_JUMP_EQUAL, 0, 1, _ARCH_REQ_XCOMP_PERM),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    libc = ctypes.CDLL(None, use_errno=True)
    bpf = _Filter(len(program) // 8, program)
    # Without privileges the kernel accepts a filter only from a process that can gain none.
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(bpf), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl({arguments[0]}) failed while denying AMX to this process")


def amx_granted() -> bool:
    """Whether this process holds the permission for AMX's tile registers, as an engine that uses them must."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    mask = ctypes.c_ulong(0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, ctypes.byref(mask)) != 0:
        return False
    return bool(mask.value >> _TILE_DATA & 1)

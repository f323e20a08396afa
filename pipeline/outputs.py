"""Files to write: what cannot or must not be written is refused before the work, the rest is there whole or not at all.

Symbolic links are followed. A pipe or a character device, such as /dev/stdout and /dev/null, is written to and never
replaced.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import InputError, OctetError

File = str | os.PathLike[str]


def check_output(
    path: File, *, keep: Iterable[File | None] = (), stream: bool = False, error: type[OctetError] = InputError
) -> Path:
    """``path``, if a file can be written there; call it before minutes of work, not after.

    Args:
        keep: files that are read, or written as well: ``path`` must be none of them. None stands for no file.
        stream: whether it may be a pipe or a character device.
        error: what to raise.

    Raises:
        error: it is one of ``keep``, a folder, or something else that is no file; or its folder is missing or not
            writable.
    """
    path = Path(path)
    problem = _problem(path, [file for file in keep if file is not None], stream=stream)
    if problem:
        raise error(f"cannot write {path}: {problem}")
    return path


def check_outputs(paths: Iterable[File | None], keep: Iterable[File | None] = ()) -> None:
    """:func:`check_output` for several files that may be streams, each unlike the others; None stands for no file."""
    kept = list(keep)
    for path in paths:
        if path is not None:
            check_output(path, keep=kept, stream=True)
            kept.append(path)


def write_output(path: File, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill the file ``path``, whole or not at all; a stream gets it as it comes.

    Raises:
        InputError: it cannot be written.
        BrokenPipeError: nobody reads the pipe any more.
    """
    path = check_output(path, stream=True)
    try:
        if _is_stream(path):
            with _opened_stream(path) as file:
                write(file)
        else:
            with replacement(path) as partial, partial.open("wb") as file:
                write(file)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: File, text: str) -> None:
    """:func:`write_output` of ``text`` in UTF-8."""
    write_output(path, lambda file: file.write(text.encode()))


@contextmanager
def replacement(path: File, suffix: str = "") -> Iterator[Path]:
    """The name of a file to fill in the block, which then takes the place of ``path``; it ends with ``suffix``.

    Raises:
        OSError: it cannot take the place.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".octet-{secrets.token_hex(8)}{suffix}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _problem(path: Path, keep: Iterable[File], *, stream: bool) -> str | None:
    """Why ``path`` cannot be written, or None."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "it is a folder; give a file name"
    if stream and _is_stream(path):
        return None if os.access(path, os.W_OK) else "no permission to write to it"
    if not stat.S_ISREG(mode) or _is_stream(path):
        return "it is a device, a pipe or a socket; give the name of a regular file"
    same = next((file for file in keep if _same(path, file)), None)
    if same is not None:
        return f"the same file is read or written too, as {same}; give another name"
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist; create it first"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write in {folder}"
    return None


def _same(one: File, other: File) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def _is_stream(path: Path) -> bool:
    """Whether ``path`` leads to a pipe, to a character device, or to wherever this process prints."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or _printing_descriptor(path) is not None


def _opened_stream(path: Path) -> BinaryIO:
    descriptor = _printing_descriptor(path)
    if descriptor is None:
        return path.open("wb")
    # Opened anew, a file to which the output was redirected would be written from its start, over what was printed.
    sys.stdout.flush()
    return os.fdopen(os.dup(descriptor), "wb")


def _printing_descriptor(path: Path) -> int | None:
    """The file descriptor of standard output or error, if ``path`` leads there."""
    return next((descriptor for descriptor in (1, 2) if _leads_to(path, descriptor)), None)


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:  # closed
        return False

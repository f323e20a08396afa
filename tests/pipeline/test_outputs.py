"""Output files: refused before the work where they must not or cannot be written, else whole or not at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import CompileError, InputError
from pipeline.outputs import check_output, check_outputs, write_output, write_text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a file ``model``, a link ``link`` to it, and one of each kind of other things."""
    monkeypatch.chdir(tmp_path)
    Path("model").write_text("precious")
    Path("link").symlink_to("model")
    Path("dangling").symlink_to("later")
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    socket.socket(socket.AF_UNIX).bind("socket")
    return tmp_path


@pytest.mark.parametrize("path", ["model", "./model", "link", "hard", "../{folder}/model"])
def test_file_that_is_read_is_no_output(folder, path):
    """`-o` with the model's own name used to replace the model."""
    os.link("model", "hard")
    with pytest.raises(InputError, match="the same file is read or written too, as model; give another name"):
        check_output(path.format(folder=folder.name), keep=[None, "images", "model"])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("path", ["r.json", "./r.json"])
def test_two_outputs_are_two_files(path):
    """The second used to replace the first; neither need be there yet."""
    with pytest.raises(InputError, match=r"written too, as r\.json"):
        check_outputs(["r.json", None, path])
    check_outputs(["r.json", "r.html"], ["model"])
    check_outputs(["/dev/null", "/dev/null"])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "it is a folder; give a file name"),
        ("none/m.so", "the folder .*none does not exist; create it first"),
        ("model/m.so", "Not a directory"),
        ("loop", "symbolic links"),
        ("pipe", "a device, a pipe or a socket"),
        ("socket", "a device, a pipe or a socket"),
        ("/dev/null", "a device, a pipe or a socket"),
        ("/dev/stdout", "a device, a pipe or a socket"),
    ],
)
def test_no_file_can_be_made_there(path, message):
    with pytest.raises(CompileError, match=f"cannot write {path}: .*{message}"):
        check_output(path, error=CompileError)


def test_folder_without_permission(folder, monkeypatch):
    """Asked of the system, as tests may run as root."""
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != folder)
    with pytest.raises(InputError, match="no permission to write in"):
        check_output("new")


@pytest.mark.usefixtures("folder")
def test_streams_are_for_text():
    """Users write reports to /dev/stdout and into pipes; no library can be linked there."""
    for path in ("pipe", "/dev/null", "/dev/stdout"):
        check_output(path, stream=True)
    with pytest.raises(InputError, match="a device, a pipe or a socket"):
        check_output("socket", stream=True)


@pytest.mark.usefixtures("folder")
def test_pipe_stays_a_pipe():
    """It used to be replaced by a file, and the reader waited for ever."""
    read = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()))
    reader.start()
    write_text("pipe", "text")
    reader.join(timeout=10)
    assert read == ["text"]
    assert Path("pipe").is_fifo()


def test_null_device_stays():
    write_text("/dev/null", "text")
    assert Path("/dev/null").is_char_device()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("link", "target"), [("link", "model"), ("dangling", "later")])
def test_target_of_a_link_is_written(link, target):
    """The link used to be replaced, and what it led to stayed old."""
    write_text(link, "new")
    assert Path(link).is_symlink()
    assert Path(target).read_text() == "new"
    assert not Path(target).is_symlink()


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(28, "No space left on device"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["disk", "interrupt"],
)
def test_failure_keeps_what_was_there(folder, error, seen):
    before = sorted(folder.iterdir())

    def fail(file):
        file.write(b"half")
        raise error

    with pytest.raises(seen, match="cannot write model: No space left on device" if seen is InputError else None):
        write_output("model", fail)
    assert Path("model").read_text() == "precious"
    assert sorted(folder.iterdir()) == before


def test_longest_name(tmp_path):
    """The temporary file's name must not be longer than the system takes when the file's own is not."""
    write_text(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


PRINTING = """
from pipeline.outputs import write_text
print("before")
write_text("/dev/stdout", "report\\n")
print("after")
"""


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_standard_output_is_written_in_order(tmp_path, kind):
    """Where it is redirected to a file, neither that file's name nor what was printed is lost."""
    if kind == "pipe":
        text = subprocess.run([sys.executable, "-c", PRINTING], check=True, capture_output=True, text=True).stdout
    else:
        with (tmp_path / "log").open("w") as log:
            subprocess.run([sys.executable, "-c", PRINTING], check=True, stdout=log)
        text = (tmp_path / "log").read_text()
    assert text == "before\nreport\nafter\n"

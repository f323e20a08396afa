"""Exit codes, error lines and help of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.cli.main import main, parser
from pipeline.errors import CompileError, ModelError

VERBS = ("quantize", "compile", "run", "accuracy", "compare", "bench", "inspect")


@pytest.fixture
def failing_compile(monkeypatch):
    def set_error(error):
        def fail(*_arguments, **_options):
            raise error

        monkeypatch.setattr(pipeline, "compile", fail, raising=False)

    return set_error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("model.onnx is cut short;\n  download it again"), 2,
         "octet: error: model.onnx is cut short; download it again"),
        (CompileError("no linker"), 2, "octet: error: no linker"),
        (KeyboardInterrupt(), 130, "octet: interrupted"),
        (ZeroDivisionError("x / 0"), 1,
         "octet: error: ZeroDivisionError: x / 0 - a fault in Octet, not in your input; run with --verbose for the"),
    ],
    ids=["bad input", "no linker", "interrupt", "fault"],
)  # fmt: skip
def test_errors_are_one_line(failing_compile, capsys, error, code, line):
    """A traceback tells a user nothing; a fault of ours must not look like a fault of theirs."""
    failing_compile(error)
    assert main(["compile", "m.onnx"]) == code
    (only,) = capsys.readouterr().err.splitlines()
    assert only.startswith(line)


def test_interrupt_of_the_imports():
    """In the first second, while the verbs are imported, Ctrl-C gave a traceback."""
    program = """
import sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "numpy":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
from pipeline.cli.main import main
sys.exit(main(["--version"]))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "octet: interrupted\n")


def test_help_is_cheap():
    """The verbs are imported for every command line, TVM, which takes a second, only for some."""
    program = "import sys; from pipeline.cli.main import parser; parser(); print('tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_verbose_adds_the_traceback(failing_compile, capsys):
    failing_compile(ModelError("bad"))
    assert main(["compile", "m.onnx", "--verbose"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("octet: error: bad\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: VERB (see `octet --help`)"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["compile"], "required: MODEL.onnx (see `octet compile --help`)"),
        (["compile", "m.onnx", "--batch", "0"], "'0' is not a whole number from 1 up"),
        (["compile", "m.onnx", "--shape", "1,3"], "'1,3' is not NAME=D0,D1,… such as image=1,3,224,224"),
        (["compile", "m.onnx", "--shape", "x=1,-3"], "'-3' is not a whole number"),
        (["run", "m.so"], "required: INPUT"),
        (["run", "m.so", "x.png", "--crop", "top"], "invalid choice: 'top'"),
        (["run", "m.so", "x.png", "--scale", "nan"], "'nan' is not a finite number"),
        (["bench", "m.so", "--seconds", "long"], "invalid float value"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert len(lines) == 1
    assert lines[0].startswith("octet: error: ")
    assert words in lines[0]


def test_unknown_target_before_any_work(capsys, tmp_path):
    assert main(["compile", str(tmp_path / "m.onnx"), "--target", "avx2"]) == 2
    assert "Did you mean 'llvm-avx2'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(capsys, verb):
    """Examples on the help page are commands that the parser takes."""
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    examples = [line.split("  ")[1].strip() for line in text.splitlines() if line.startswith(f"  octet {verb} ")]
    assert len(examples) >= 2
    for example in examples:
        parser().parse_args(example.split(" | ")[0].split()[1:])


def test_libraries_are_code_says_every_page_that_runs_one(capsys):
    for arguments in ([], ["run"], ["bench"], ["accuracy"], ["compare"]):
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        assert "trust" in capsys.readouterr().out


def test_as_a_module(libraries):
    """``python -m pipeline`` from any folder; a closed pipe (`| head`) is no error."""
    command = [sys.executable, "-m", "pipeline"]
    environment = {"PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "--version"], check=False, capture_output=True, text=True, env=environment)
    assert done.stdout == f"octet {pipeline.__version__}\n", done.stderr
    with subprocess.Popen(
        [*command, "inspect", str(libraries["pair"])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0

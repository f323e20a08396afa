"""A profile as text, JSON and picture."""

from __future__ import annotations

import dataclasses
import io
import json
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.profiling import Profile, to_json, to_text, write_figure
from pipeline.profiling.figure import SLOWEST, check_figure_name


def test_text(made_by_hand: Profile) -> None:
    """Slowest first, shares of the latency, and sums that add up."""
    assert to_text(made_by_hand) == (
        "m.so: m.onnx for llvm-avx2, batch 1, 1 thread, 64 runs (other programs interrupted 3)\n"
        "this machine: 100 GMAC/s; reads in GB/s: 64 at 16 KiB, 16 at 1 MiB, 4 at 64 MiB\n"
        "\n"
        "    ms   share  GMAC/s  of peak  GB/s  of memory  bound by  operator        kernel\n"
        '2.0000  50.0 %     0.5    0.5 %   5.0     66.4 %  memory    /fc <&"> /Gemm  conv2d_n1_1\n'
        "1.0000  25.0 %    80.0   80.0 %   0.1      0.7 %  compute   /conv1/Conv     conv2d_n1\n"
        "0.5000  12.5 %                    0.0      0.0 %  overhead  input           quantize_pack_1x3\n"
        "\n"
        "operators              3.5000 ms   87.5 %  3 calls of kernels\n"
        "  bound by compute     1.0000 ms   25.0 %  1 operators\n"
        "  bound by memory      2.0000 ms   50.0 %  1 operators\n"
        "  bound by overhead    0.5000 ms   12.5 %  1 operators\n"
        "virtual machine        0.2500 ms    6.2 %  memory and shapes, between the kernels\n"
        "rest                   0.2500 ms    6.2 %  the call from Python, the copy of the outputs, and noise\n"
        "latency                4.0000 ms  100.0 %  median without the profiler; 4.1250 ms with it"
    )


def test_text_of_the_slowest_alone(made_by_hand: Profile) -> None:
    """The sums are still those of all."""
    text = to_text(made_by_hand, 1)
    assert "/fc" in text
    assert "/conv1/Conv" not in text
    assert "3 calls of kernels" in text


def test_text_says_that_the_limits_are_too_low(made_by_hand: Profile) -> None:
    disturbed = dataclasses.replace(made_by_hand.roofline, disturbed=True)
    assert "limits are too low" in to_text(dataclasses.replace(made_by_hand, roofline=disturbed))


def test_json(made_by_hand: Profile) -> None:
    """In the order of execution, the kernel's fields beside the times."""
    data = json.loads(to_json(made_by_hand))
    assert [entry["node"] for entry in data["operators"]] == ["input", "/conv1/Conv", '/fc <&"> /Gemm']
    assert data["operators"][1]["macs"] == 80_000_000
    assert data["operators"][1]["bound"] == "compute"
    assert data["roofline"]["peak_gmacs"] == 100
    assert data["operator_milliseconds"] + data["machine_milliseconds"] + data["rest_milliseconds"] == data["latency"]


def test_svg(made_by_hand: Profile) -> None:
    """Well-formed whatever the operators are called; a disc for those with products, a bar for each."""
    root = ET.fromstring(write_figure(made_by_hand, ".svg"))
    space = "{http://www.w3.org/2000/svg}"
    tips = [element.text or "" for element in root.iter(f"{space}title")]
    assert len(list(root.iter(f"{space}circle"))) == 2
    assert sum(tip.startswith('/fc <&"> /Gemm: 2.0000 ms') for tip in tips) == 2
    assert sum(tip.startswith("input: 0.5000 ms") for tip in tips) == 1
    texts = [element.text for element in root.iter(f"{space}text")]
    for text in ("m.onnx, llvm-avx2, batch 1, 1 thread", "100 GMAC/s", "4 GB/s (64 MiB)", "2.000 ms, 50.0 %"):
        assert text in texts


def test_svg_of_many_operators(made_by_hand: Profile) -> None:
    """Only so many bars have a place; the others are summed up."""
    many = dataclasses.replace(made_by_hand, operators=made_by_hand.operators * 20)
    picture = write_figure(many, ".SVG").decode()
    assert f"and {60 - SLOWEST} more: " in picture


def test_svg_without_products(made_by_hand: Profile) -> None:
    """A network of look-ups has no dot on the roofline."""
    assert b"<circle" not in write_figure(
        dataclasses.replace(made_by_hand, operators=made_by_hand.operators[:1]), ".svg"
    )


def test_png(made_by_hand: Profile) -> None:
    image = Image.open(io.BytesIO(write_figure(made_by_hand, ".png")))
    assert (image.format, image.size) == ("PNG", (2480, 1240))
    assert len(set(image.convert("L").tobytes())) > 100


def test_other_formats() -> None:
    assert check_figure_name("a/b.PNG").name == "b.PNG"
    with pytest.raises(InputError, match=r"cannot draw profile.pdf: give a file name that ends with .svg or .png"):
        check_figure_name("profile.pdf")

"""The convolution on x86: which template computes it, with which knobs.

A kernel and its packed constants have to be made from the same configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm

from .amx import MatrixTile
from .compute.conv2d import Conv2d
from .depthwise import InterleavedDepthwise
from .intrinsics.x86 import DotProduct
from .packed_tile import PackedTile
from .paired_depthwise import PairedDepthwise
from .quad_list import QuadList
from .register_tile import RegisterTile
from .template import Configuration, Knobs, Template
from .vector_depthwise import VectorDepthwise

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        MatrixTile(),
        PackedTile(),
        QuadList(),
        InterleavedDepthwise(),
        PairedDepthwise(),
        VectorDepthwise(),
        RegisterTile(),
    )
}
"""By name, the preferred ones first."""


def supporting_templates(problem: Conv2d, dot: DotProduct) -> list[Template]:
    """The templates that compute ``problem``, the preferred one first."""
    return [template for template in TEMPLATES.values() if template.supports(problem, dot)]


def configuration(template: Template, knobs: Knobs) -> Configuration:
    """``template`` with ``knobs``."""
    return Configuration(template.name, tuple(sorted(knobs.items())))


def default_configuration(problem: Conv2d, dot: DotProduct) -> Configuration:
    """What the compiler takes where no record of a search says otherwise."""
    template = supporting_templates(problem, dot)[0]
    return configuration(template, template.default(problem, dot))


def is_valid(problem: Conv2d, dot: DotProduct, choice: Configuration) -> bool:
    """Whether ``choice`` is a point of the search space of ``problem``."""
    template = TEMPLATES.get(choice.template)
    if template is None or not template.supports(problem, dot):
        return False
    space, knobs = template.space(problem, dot), dict(choice.knobs)
    return (
        space.keys() == knobs.keys()
        and all(knobs[name] in values for name, values in space.items())
        and template.admits(problem, dot, knobs)
    )


def build(problem: Conv2d, dot: DotProduct, choice: Configuration) -> tvm.tirx.PrimFunc:
    """The scheduled kernel of a convolution or fully connected layer; see ``compute.conv2d`` for its arguments."""
    return TEMPLATES[choice.template].build(problem, dot, dict(choice.knobs))


def constants(
    problem: Conv2d, dot: DotProduct, choice: Configuration, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """(weight, bias, multiplier[, weight zero points]) of the model, packed as :func:`build`'s kernel reads them."""
    return TEMPLATES[choice.template].constants(problem, dot, dict(choice.knobs), arrays)

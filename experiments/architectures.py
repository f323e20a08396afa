"""The seven ImageNet networks of the comparison, layer by layer as in torchvision (MobileNet-V1: as in its paper).

Each function returns the FP32 model, 224x224 RGB in, 1000 logits out, BatchNorm folded, weights drawn from the seed.
Dropout and auxiliary heads, which do nothing at inference time, are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from experiments.onnx_builder import GraphBuilder

CLASSES = 1000

# The last convolution of a residual branch adds to what is there; a smaller gain keeps deep sums from growing.
BRANCH_GAIN = 0.4


def resnet50(seed: int) -> onnx.ModelProto:
    g = GraphBuilder("resnet50", seed=seed)
    x = g.conv(g.input, 64, 7, stride=2, pad=3)
    x = g.max_pool(x, 3, 2, pad=1)
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            y = g.conv(x, width, 1)
            y = g.conv(y, width, 3, stride=stride, pad=1)
            y = g.conv(y, 4 * width, 1, activation=None, gain=BRANCH_GAIN)
            shortcut = g.conv(x, 4 * width, 1, stride=stride, activation=None) if block == 0 else x
            x = g.relu(g.add(y, shortcut))
    return _classify(g, x, 2048)


def resnet18(seed: int) -> onnx.ModelProto:
    g = GraphBuilder("resnet18", seed=seed)
    x = g.conv(g.input, 64, 7, stride=2, pad=3)
    x = g.max_pool(x, 3, 2, pad=1)
    for stage, width in enumerate([64, 128, 256, 512]):
        for block in range(2):
            widens = block == 0 and stage > 0
            y = g.conv(x, width, 3, stride=2 if widens else 1, pad=1)
            y = g.conv(y, width, 3, pad=1, activation=None, gain=BRANCH_GAIN)
            shortcut = g.conv(x, width, 1, stride=2, activation=None) if widens else x
            x = g.relu(g.add(y, shortcut))
    return _classify(g, x, 512)


def mobilenet_v1(seed: int) -> onnx.ModelProto:
    g = GraphBuilder("mobilenet_v1", seed=seed)
    x = g.conv(g.input, 32, 3, stride=2, pad=1)
    channels = 32
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for filters, stride in blocks:
        x = g.conv(x, channels, 3, stride=stride, pad=1, groups=channels)
        x = g.conv(x, filters, 1)
        channels = filters
    return _classify(g, x, 1024)


def mobilenet_v2(seed: int) -> onnx.ModelProto:
    g = GraphBuilder("mobilenet_v2", seed=seed)
    x = g.conv(g.input, 32, 3, stride=2, pad=1, activation="relu6")
    channels = 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, filters, blocks, first_stride in stages:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            hidden = channels * expansion
            residual = stride == 1 and channels == filters
            y = g.conv(x, hidden, 1, activation="relu6") if expansion > 1 else x
            y = g.conv(y, hidden, 3, stride=stride, pad=1, groups=hidden, activation="relu6")
            y = g.conv(y, filters, 1, activation=None, gain=BRANCH_GAIN if residual else 1.0)
            x = g.add(x, y) if residual else y
            channels = filters
    x = g.conv(x, 1280, 1, activation="relu6")
    return _classify(g, x, 1280)


def squeezenet(seed: int) -> onnx.ModelProto:
    """SqueezeNet 1.1."""
    g = GraphBuilder("squeezenet", seed=seed)

    def fire(x: str, squeeze: int, expand: int) -> str:
        x = g.conv(x, squeeze, 1)
        return g.concat(g.conv(x, expand, 1), g.conv(x, expand, 3, pad=1))

    x = g.conv(g.input, 64, 3, stride=2)
    x = g.max_pool(x, 3, 2, ceil=True)
    x = fire(fire(x, 16, 64), 16, 64)
    x = g.max_pool(x, 3, 2, ceil=True)
    x = fire(fire(x, 32, 128), 32, 128)
    x = g.max_pool(x, 3, 2, ceil=True)
    x = fire(fire(x, 48, 192), 48, 192)
    x = fire(fire(x, 64, 256), 64, 256)
    x = g.conv(x, CLASSES, 1)
    x = g.flatten(g.global_average_pool(x))
    return g.finish(x)


def googlenet(seed: int) -> onnx.ModelProto:
    """torchvision's GoogLeNet: with BatchNorm, and with 3x3 kernels in the branch that the paper gives 5x5 ones."""
    g = GraphBuilder("googlenet", seed=seed)

    def inception(x: str, b1: int, reduce3: int, b3: int, reduce5: int, b5: int, pool: int) -> str:
        return g.concat(
            g.conv(x, b1, 1),
            g.conv(g.conv(x, reduce3, 1), b3, 3, pad=1),
            g.conv(g.conv(x, reduce5, 1), b5, 3, pad=1),
            g.conv(g.max_pool(x, 3, 1, pad=1, ceil=True), pool, 1),
        )

    x = g.conv(g.input, 64, 7, stride=2, pad=3)
    x = g.max_pool(x, 3, 2, ceil=True)
    x = g.conv(x, 64, 1)
    x = g.conv(x, 192, 3, pad=1)
    x = g.max_pool(x, 3, 2, ceil=True)
    x = inception(x, 64, 96, 128, 16, 32, 32)
    x = inception(x, 128, 128, 192, 32, 96, 64)
    x = g.max_pool(x, 3, 2, ceil=True)
    x = inception(x, 192, 96, 208, 16, 48, 64)
    x = inception(x, 160, 112, 224, 24, 64, 64)
    x = inception(x, 128, 128, 256, 24, 64, 64)
    x = inception(x, 112, 144, 288, 32, 64, 64)
    x = inception(x, 256, 160, 320, 32, 128, 128)
    x = g.max_pool(x, 2, 2, ceil=True)
    x = inception(x, 256, 160, 320, 32, 128, 128)
    x = inception(x, 384, 192, 384, 48, 128, 128)
    return _classify(g, x, 1024)


def alexnet(seed: int) -> onnx.ModelProto:
    g = GraphBuilder("alexnet", seed=seed)
    x = g.max_pool(g.conv(g.input, 64, 11, stride=4, pad=2), 3, 2)
    x = g.max_pool(g.conv(x, 192, 5, pad=2), 3, 2)
    x = g.conv(x, 384, 3, pad=1)
    x = g.conv(x, 256, 3, pad=1)
    x = g.max_pool(g.conv(x, 256, 3, pad=1), 3, 2)
    x = g.flatten(x)
    x = g.linear(x, 256 * 6 * 6, 4096, activation="relu")
    x = g.linear(x, 4096, 4096, activation="relu")
    return g.finish(g.linear(x, 4096, CLASSES))


ARCHITECTURES: dict[str, Callable[[int], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "resnet18": resnet18,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "squeezenet": squeezenet,
    "googlenet": googlenet,
    "alexnet": alexnet,
}


def _classify(g: GraphBuilder, x: str, features: int) -> onnx.ModelProto:
    return g.finish(g.linear(g.flatten(g.global_average_pool(x)), features, CLASSES))

# SPDX-License-Identifier: BSD-3-Clause
"""Write `tests/golden/pytorch/`: packages that coremltools makes of PyTorch modules, with inputs,
and what PyTorch computes from these in float64.

    pip install -e '.[all]' torch==2.13.0 'numpy<2.3'
    python tests/golden/pytorch.py [NAME ...]

Written with Python 3.11, torch 2.13.0 (CPU), coremltools 9.0 and NumPy 2.2. The tests read the
files without PyTorch. A file holds the bytes of the model (`model`) and of its weights (`weights`,
if any), and per sample the inputs and outputs, `SAMPLE/NAME`.

Modules that coremltools 9.0 converts to something else than they are have no case: its
`reciprocal` adds 1e-4, its `softplus` has no threshold, its antialiased `interpolate` none, its
variance of all elements is the biased one, its `argmax` of all elements takes the last axis, its
`RMSNorm` adds 1e-5, and `x[mask] = value` in a traced module is lost.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own abbreviation
from torch import nn

warnings.filterwarnings("ignore")
import coremltools as ct  # noqa: E402, TID251 - a test's, run by hand
import coremltools.optimize.coreml as compression  # noqa: E402, TID251

FOLDER = Path(__file__).parent / "pytorch"
TARGETS = (ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18)
CASES = {}
torch.manual_seed(0)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def case(name, module, *samples, **options):
    """Add a case: a module or function, and samples, each a tensor or a tuple of them.

    Options: `target` (0 to 3, iOS15 to iOS18), `half` (compute in fp16), `shapes` (flexible ones),
    `script`, `export` (how PyTorch hands the module over) and `compress` (a function of the model).
    """
    samples = [each if isinstance(each, tuple) else (each,) for each in samples]
    for part in module.modules() if isinstance(module, nn.Module) else ():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):  # as if it had been trained
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    CASES[name] = (module, samples, options)


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def whole(low, high, *shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, shape, np.int32))


def conv(n_in, n_out, size=3, **options):
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False, **options),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block = conv(3, 4, 5, stride=2), nn.Sequential(conv(4, 4), conv(4, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        return self.head(F.adaptive_avg_pool2d(x + self.block(x), 1).flatten(1)).softmax(-1)


class Inverted(nn.Module):
    """The block of MobileNetV3: expansion, depthwise, squeeze and excitation, projection."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Hardswish())
        self.depthwise = nn.Conv2d(6, 6, 5, stride=2, padding=2, groups=6)
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

    def forward(self, x):
        x = F.hardswish(self.depthwise(self.expand(x)))
        means = F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * F.hardsigmoid(self.excite(means))


class UNet(nn.Module):
    def __init__(self, is_transposed):
        super().__init__()
        self.down, self.middle = conv(2, 4), conv(4, 6)
        self.up = nn.ConvTranspose2d(6, 4, 2, 2) if is_transposed else nn.Conv2d(6, 4, 1)
        self.join, self.is_transposed = nn.Conv2d(8, 2, 1), is_transposed

    def forward(self, x):
        skip = self.down(x)
        y = self.up(self.middle(F.max_pool2d(skip, 2)))
        if not self.is_transposed:
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.join(torch.cat([y, skip], 1)))


class Attention(nn.Module):
    def __init__(self, size, n_heads):
        super().__init__()
        self.projection, self.result = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.n_heads = n_heads

    def forward(self, x, mask=None):
        batch, count, size = x.shape
        parts = self.projection(x).reshape(batch, count, 3, self.n_heads, size // self.n_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / math.sqrt(size // self.n_heads)
        if mask is not None:
            scores = scores.masked_fill(mask == 0, float("-inf"))
        mixed = (scores.softmax(-1) @ value).transpose(1, 2)
        return self.result(mixed.reshape(batch, count, size))


class Block(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])
        self.attention = Attention(size, 2)
        self.feed = nn.Sequential(nn.Linear(size, 12), nn.GELU(), nn.Linear(12, size))

    def forward(self, x, mask=None):
        x = x + self.attention(self.norms[0](x), mask)
        return x + self.feed(self.norms[1](x))


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 8, 4, 4), Block()
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))[:, 0]


class Windows(nn.Module):
    """Attention in shifted windows, as Swin has it, and the merging of patches."""

    def __init__(self):
        super().__init__()
        self.attention, self.merge = Attention(4, 2), nn.Linear(16, 6)

    def forward(self, x):
        y = torch.roll(x, (-2, -2), (1, 2)).view(1, 2, 4, 2, 4, 4).permute(0, 1, 3, 2, 4, 5)
        y = self.attention(y.reshape(4, 16, 4)).view(1, 2, 2, 4, 4, 4).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(1, 8, 8, 4), (2, 2), (1, 2))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.merge(torch.cat(parts, -1))


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places, self.block = nn.Embedding(11, 8), nn.Embedding(16, 8), Block()

    def forward(self, words):
        count = words.shape[1]
        x = self.words(words) + self.places(torch.arange(count))
        x = self.block(x, torch.tril(torch.ones(count, count))[None, None])
        return x @ self.words.weight.t()


class Waves(nn.Module):
    """Gated causal convolutions, as WaveNet has them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(2, 4, 2, dilation=2**k) for k in range(3)])

    def forward(self, x):
        for k, layer in enumerate(self.layers):
            a, b = layer(F.pad(x, (2**k, 0))).chunk(2, 1)
            x = x + torch.tanh(a) * torch.sigmoid(b)
        return x


class Separator(nn.Module):
    """Masks on a learnt transform of sound, as Conv-TasNet has them."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Conv1d(1, 6, 8, 4), nn.ConvTranspose1d(6, 1, 8, 4)
        self.masks = nn.Sequential(nn.GroupNorm(1, 6), nn.PReLU(), nn.Conv1d(6, 12, 1))

    def forward(self, x):
        x = F.relu(self.encoder(x))
        masks = torch.sigmoid(self.masks(x)).view(1, 2, 6, -1)
        return self.decoder((x[:, None] * masks).view(2, 6, -1)).view(1, 2, -1)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 3, 2, 1)

    def forward(self, x):
        y = self.layer(x)
        _, _, height, width = y.shape
        y = y.view(1, 2, 5, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = (y[..., :2] * 2 - 0.5 + torch.stack((columns, rows), 2)) * 2
        return torch.cat((centres, (y[..., 2:4] * 2) ** 2, y[..., 4:]), -1).view(1, -1, 5)


class Tied(nn.Module):
    """Layers whose weights have few values, which compression keeps as they are."""

    def __init__(self, values):
        super().__init__()
        self.layer, self.head = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 8)
        for index, parameter in enumerate((self.layer.weight, self.head.weight)):
            chosen = np.random.default_rng(index).choice(values, parameter.shape)
            parameter.data = torch.from_numpy(chosen.astype(np.float32))

    def forward(self, x):
        return self.head(F.relu(self.layer(x)).mean((2, 3)))


class Scripted(nn.Module):
    def forward(self, x):
        if bool(x.sum() > 0):  # noqa: SIM108 - a block each, in the package
            y = x * 2
        else:
            y = x - 1
        while bool(y.sum() > 1):
            y = y * 0.5
        return y


def compressed(function, kind, **options):
    """A compression of every weight, however small."""
    settings = kind(weight_threshold=1, **options)
    return lambda model: function(model, compression.OptimizationConfig(global_config=settings))


def quantized(**options):
    kind = compression.OpLinearQuantizerConfig
    return compressed(compression.linear_quantize_weights, kind, mode="linear_symmetric", **options)


PICTURE, SOUND, TABLE = draw(1, 4, 7, 9), draw(2, 4, 13), draw(4, 6)
IMAGE, VOLUME = draw(1, 3, 16, 16), draw(1, 2, 4, 5, 6)

case("conv-strides-dilation", nn.Conv2d(4, 6, 3, (2, 1), (2, 1), (2, 1), groups=2), PICTURE)
case("conv-same-1d", nn.Conv1d(4, 3, 4, padding="same"), SOUND)
case("conv-3d", nn.Conv3d(2, 3, 3, (1, 2, 1), 1), VOLUME)
case("conv-replicate", nn.Conv2d(4, 2, 3, padding=2, padding_mode="replicate"), PICTURE)
case("transposed-output-padding", nn.ConvTranspose2d(4, 4, 4, 3, 2, 2, 2), PICTURE)
case("transposed-dilation-1d", nn.ConvTranspose1d(4, 3, 3, 2, 3, dilation=2), SOUND, target=2)
case("transposed-3d", nn.ConvTranspose3d(2, 2, 3, 2, 1), VOLUME)
case("max-pool-ceil", nn.MaxPool2d(3, 2, 1, ceil_mode=True), PICTURE)
case("average-pool-ceil", nn.AvgPool2d(3, 2, 1, ceil_mode=True), PICTURE)
case("average-pool-without-pads", nn.AvgPool1d(3, 2, 1, count_include_pad=False), SOUND)
case(
    "adaptive-pools",
    lambda x: (F.adaptive_avg_pool2d(x, (3, 4)), F.adaptive_max_pool2d(x, 2)),
    PICTURE,
)
case("power-pool", lambda x: F.lp_pool2d(x, 2.0, 3, 2), PICTURE)
case("pads", lambda x: F.pad(F.pad(x, (2, 1, 3, 0), "reflect"), (1, 0), value=0.5), PICTURE)
for mode in ("nearest", "bilinear"):
    for corners in (True, False) if mode == "bilinear" else (None,):
        for size in ((14, 18), (5, 13)):
            case(
                f"interpolate-{mode}-{'aligned-' if corners else ''}{size[0]}",
                lambda x, m=mode, c=corners, s=size: F.interpolate(x, s, mode=m, align_corners=c),
                PICTURE,
                target=3 if size[0] == 5 else 0,
            )
case("interpolate-1d", lambda x: F.interpolate(x, scale_factor=2.0, mode="linear"), SOUND)
GRID = torch.rand(1, 5, 6, 2, generator=torch.Generator().manual_seed(0)) * 2.6 - 1.3
for mode, padding, corners in (
    ("bilinear", "zeros", True),
    ("bilinear", "reflection", False),
    ("nearest", "border", False),
):
    case(
        f"grid-sample-{mode}-{padding}",
        lambda x, g, m=mode, p=padding, c=corners: F.grid_sample(x, g, m, p, c),
        (PICTURE, GRID),
        target=1,
    )
THETA = torch.tensor([[[0.8, 0.2, 0.1], [-0.1, 0.9, -0.2]]])
case(
    "affine-grid",
    lambda x: F.grid_sample(
        x, F.affine_grid(THETA.to(x.dtype), (1, 4, 5, 6), True), align_corners=True
    ),
    PICTURE,
)
case("pixel-shuffle", nn.PixelShuffle(2), draw(1, 8, 3, 2))
case("pixel-unshuffle", nn.PixelUnshuffle(2), draw(1, 3, 4, 6), target=1)
case("unfold", nn.Unfold((2, 3), (1, 2), (1, 0), (2, 1)), PICTURE)
case("fold", nn.Fold((4, 6), 2, stride=2), draw(1, 8, 6))
case("norms-group", nn.GroupNorm(2, 4), PICTURE)
case("norms-instance", nn.InstanceNorm2d(4, affine=True), PICTURE)
case("norms-layer", nn.LayerNorm((7, 9), 1e-3), PICTURE)
case("norms-batch", nn.BatchNorm1d(4), SOUND)
case("norms-response", nn.LocalResponseNorm(3, 0.1, 0.6, 2.0), PICTURE)
case("norms-vector", lambda x: (F.normalize(x), torch.linalg.vector_norm(x, 1, (1, 2))), PICTURE)
for number, functions in enumerate(
    (
        (F.relu, F.relu6, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.gelu, F.softsign),
        (
            lambda x: F.elu(x, 0.7),
            F.selu,
            lambda x: F.leaky_relu(x, 0.2),
            F.softplus,
            F.tanhshrink,
            lambda x: F.gelu(x, approximate="tanh"),
            lambda x: F.threshold(x, 0.1, -2.0),
            F.glu,
        ),
        (lambda x: F.softmax(x, 0), lambda x: F.log_softmax(x, -1), torch.erf),
    )
):
    case(f"activations-{number}", lambda x, f=functions: tuple(each(x) for each in f), 3 * TABLE)
SLOPES = torch.tensor([-0.5, 0.1, 0.3, 1.2])
case("activations-prelu", lambda x: F.prelu(x.clamp(-1.5, 1), SLOPES.to(x.dtype)), PICTURE)
ELEMENTARY = "abs neg exp exp2 sin cos tan atan sinh cosh floor ceil round frac sign square"
case("elementary", lambda x: tuple(getattr(torch, f)(x) for f in ELEMENTARY.split()), 1.7 * TABLE)
ROOTS = "log log2 log10 log1p sqrt rsqrt"
case("logarithms", lambda x: tuple(getattr(torch, f)(x) for f in ROOTS.split()), TABLE.abs() + 0.1)
case("inverse-functions", lambda x: (x.asin(), x.acos(), x.atanh()), torch.tanh(TABLE))
PAIRS = "add sub mul div maximum minimum remainder floor_divide eq ne lt le gt ge"
case(
    "pairs",
    lambda x, y: (*(getattr(torch, f)(x, y).to(x.dtype) for f in PAIRS.split()), x.abs() ** y),
    (TABLE, draw(6, seed=1)),
)
case(
    "integers",
    lambda x, y: (x // y, x % y, x * y - x, torch.div(x, y, rounding_mode="trunc")),
    (whole(-20, 20, 3, 5), whole(1, 6, 5, seed=1)),
)
case(
    "logic",
    lambda x: torch.logical_xor(x > 0, torch.logical_or(~(x < 1), (x > -1) & (x != 0))).int(),
    TABLE,
)
case(
    "reductions",
    lambda x: (
        x.sum(1),
        x.mean((2, 3)),
        x.amax(-1),
        x.amin((1, 2), True),
        x.logsumexp(1),
        x.argmax(1),
        x.argmin(-1, True),
        x.var(1),
        x.std((1, 2), keepdim=True),
    ),
    PICTURE,
)
case("running-sums", lambda x: (x.cumsum(1), x.flip(0).cumsum(0)), TABLE)
case(
    "order",
    lambda x: (*x.topk(3), *x.sort(0), x.argsort(-1, descending=True), *x.topk(2, 0, False)),
    TABLE,
    target=2,
)
INDICES = whole(0, 6, 4, 3)
case(
    "gathering",
    lambda x, i: (x.gather(1, i), x[:, i[0]], x.index_select(1, i[1])),
    (TABLE, INDICES),
)
case(
    "scattering",
    lambda x, i, u: (x.scatter_add(1, i, u), torch.index_put(x, (i[:, 0].argsort(),), x * 2)),
    (TABLE, INDICES, draw(4, 3)),
    target=1,
)
case("masks", lambda x: (x[x > 0], torch.nonzero(x > 0.5), torch.where(x > 0, x, -x)), TABLE)
case("updates", lambda x: torch.slice_scatter(x, 2 * x[:, :3], 1, 2, 5), TABLE, target=3)
case(
    "slices",
    lambda x: (x[..., 1:-1:3], x[:, -2], x[:, [0, 2]], x[:, :, 2:100], x.flip(1, -1)),
    PICTURE,
)
case(
    "arrangement",
    lambda x: (
        x.permute(3, 0, 2, 1),
        x.unflatten(1, (2, 2)),
        x.repeat(1, 2, 1, 1),
        x.roll((1, -2), (2, 3)),
        torch.stack(x.split([3, 4], 2)[0].unbind(1), -1),
    ),
    PICTURE,
)
case("triangles", lambda x: (x.tril(-1), x.triu(1), F.one_hot(x.argmax(1), 6)), TABLE)
case(
    "products",
    lambda x, y: (x @ y, torch.einsum("ij,jk->ik", x, y), F.linear(x, y.t())),
    (TABLE, draw(6, 3)),
)
case(
    "einsum",
    lambda x, y: torch.einsum("bchw,bwhu->bchu", x, y),
    (draw(1, 2, 3, 4), draw(1, 4, 3, 5)),
)
QKV = (draw(1, 2, 5, 8), draw(1, 2, 6, 8, seed=1), draw(1, 2, 6, 8, seed=2))
case(
    "attention-masked",
    lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m > -1),
    (*QKV, draw(5, 6)),
    target=3,
)
case("multihead", Attention(8, 2), draw(2, 5, 8))
case("lstm", nn.LSTM(3, 4, 2, bidirectional=True), draw(5, 2, 3))
case("gru", nn.GRU(3, 4, bidirectional=True), draw(5, 2, 3))
case("rnn", nn.RNN(3, 4, nonlinearity="relu", batch_first=True), draw(2, 5, 3))
HANN = torch.hann_window(8)
case(
    "spectrum",
    lambda x: torch.view_as_real(torch.stft(x, 8, 4, 8, HANN.to(x.dtype), return_complex=True)),
    draw(1, 24),
)
case("embedding", nn.Embedding(7, 3), whole(0, 7, 2, 4))
case("casts", lambda x: ((3 * x).int(), x.bool().float(), (x > 0).int()), TABLE)
case("scripted", Scripted(), TABLE, -TABLE, script=True)

case("residual", Residual(), IMAGE, target=1)
case("residual-half", Residual(), IMAGE, half=True)
case("inverted", Inverted(), IMAGE, export=True, target=2)
case("inverted-half", Inverted(), IMAGE, half=True, target=3)
LENGTH = ct.RangeDim(4, 32, default=16)
case(
    "unet",
    UNet(is_transposed=True),
    draw(1, 2, 16, 16),
    draw(1, 2, 8, 12),
    shapes=[(1, 2, LENGTH, LENGTH)],
)
case("unet-bilinear-half", UNet(is_transposed=False), draw(1, 2, 8, 8), half=True)
case("vision", Vision(), draw(1, 3, 8, 8), target=3)
case("vision-half", Vision(), draw(1, 3, 8, 8), half=True)
case("windows", Windows(), draw(1, 8, 8, 4), export=True, target=3)
case(
    "language",
    Language(),
    whole(0, 11, 1, 6),
    whole(0, 11, 1, 3),
    shapes=[(1, ct.RangeDim(1, 16, default=6))],
    target=2,
)
case("waves", Waves(), draw(1, 2, 20))
case("separator", Separator(), draw(1, 1, 28), shapes=[(1, 1, ct.RangeDim(8, 64, default=28))])
case("separator-half", Separator(), draw(1, 1, 28), half=True)
case("detector", Detector(), draw(1, 3, 8, 8))
INPUT = draw(1, 4, 6, 6)
SIXTEEN, BYTES = np.linspace(-1, 0.875, 16), np.arange(-127, 128) / 128
case(
    "palettized",
    Tied(SIXTEEN),
    INPUT,
    target=1,
    compress=compressed(
        compression.palettize_weights, compression.OpPalettizerConfig, mode="unique"
    ),
)
case("quantized", Tied((-127 / 128, -0.5, 0.25, 127 / 128)), INPUT, target=1, compress=quantized())
case(
    "quantized-blocks",
    Tied((-7 / 8, -0.5, 0.25, 7 / 8)),
    INPUT,
    target=3,
    compress=quantized(dtype="int4", granularity="per_block", block_size=4),
)
case(
    "pruned",
    Tied((0.0, 0.0, 0.0, 0.5, -0.75)),
    INPUT,
    target=1,
    compress=compressed(
        compression.prune_weights,
        compression.OpThresholdPrunerConfig,
        threshold=1e-6,
        minimum_sparsity_percentile=0.1,
    ),
)


def flat(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else [t for o in outputs for t in flat(o)]


def converted(module, inputs, options):
    """Give the package of a module as coremltools converts it."""
    with torch.no_grad():
        if options.get("script"):
            handed = torch.jit.script(module)
        elif options.get("export"):
            handed = torch.export.export(module, inputs).run_decompositions({})
        else:
            handed = torch.jit.trace(module, inputs, check_trace=False)
    types = {}
    if not options.get("export"):
        shapes = options.get("shapes") or [tuple(each.shape) for each in inputs]
        types["inputs"] = [
            ct.TensorType(shape=shape, dtype=np.int32 if each.dtype == torch.int32 else np.float32)
            for shape, each in zip(shapes, inputs, strict=True)
        ]
    precision = ct.precision.FLOAT16 if options.get("half") else ct.precision.FLOAT32
    model = ct.convert(
        handed,
        convert_to="mlprogram",
        minimum_deployment_target=TARGETS[options.get("target", 0)],
        compute_precision=precision,
        skip_model_load=True,
        **types,
    )
    return options["compress"](model) if "compress" in options else model


def truth(module, inputs):
    """Compute in float64; round what is not whole to float32, in which models are compared."""
    wide = [each.double() if each.is_floating_point() else each for each in inputs]
    # Indices are int64 in PyTorch, and int32 in every package.
    with torch.no_grad():
        outputs = flat(copy.deepcopy(module).double()(*wide))
    return [each.numpy().astype("f4" if each.is_floating_point() else "i4") for each in outputs]


def write(name):
    module, samples, options = CASES[name]
    module = (module if isinstance(module, nn.Module) else Function(module)).eval()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        model = converted(module, samples[0], options)
    spec = model.get_spec()
    arrays = {}
    for index, inputs in enumerate(samples):
        names = [each.name for each in spec.description.input]
        arrays |= {f"{index}/{n}": i.numpy() for n, i in zip(names, inputs, strict=True)}
        names = [each.name for each in spec.description.output]
        arrays |= {f"{index}/{n}": o for n, o in zip(names, truth(module, inputs), strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.mlpackage")
        data = Path(folder) / "model.mlpackage" / "Data" / "com.apple.CoreML"
        arrays["model"] = np.frombuffer((data / "model.mlmodel").read_bytes(), np.uint8)
        weights = data / "weights" / "weight.bin"
        if weights.exists():
            arrays["weights"] = np.frombuffer(weights.read_bytes(), np.uint8)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


def main():
    logging.disable(logging.CRITICAL)
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or CASES:
        torch.manual_seed(0)
        write(name)
        print(name)  # noqa: T201 - a script


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: PLW0108 - the functions are called with keywords, which NumPy's ufuncs do not take
"""An evaluator of ML Programs in NumPy, independent of ONNX and of convcal's translation.

Written from the documentation of MIL's operations (the docstrings in coremltools), in float64,
with one plain loop over the taps of a kernel. Where MIL leaves open what a transposed convolution
keeps, it follows the rule of the reference runtime: ``custom`` pads begin at the pad in front,
``valid`` with a shorter ``output_shape`` keeps the centre.
"""

import itertools
import math

import evaluator_tensors
import layer_evaluator
import numpy as np
from evaluators import numerics
from scipy import special

from convcal.coreml._coremltools import load_coremltools


def evaluate(package, sample, *, rounds=True, start=None):
    """Compute every tensor of a program's main function.

    Parameters
    ----------
    package : Package
        Its ``spec`` and ``weights_dir`` are read.
    sample : dict of str to ndarray
        The inputs, as the program takes them.
    rounds : bool
        Round what the program types fp16 to fp16, once, after each operation.
    start : dict of str to ndarray, optional
        Tensors to use instead of computing them: gives one step at a time.

    Returns
    -------
    dict of str to ndarray
        All tensors that are not constants, by name; floats as float64.
    """
    load_coremltools()
    from coremltools.converters.mil.frontend.milproto.load import load  # noqa: TID251
    from coremltools.converters.mil.mil.types.symbolic import is_symbolic  # noqa: TID251

    version = package.spec.specificationVersion
    program = load(package.spec, version, file_weights_dir=str(package.weights_dir))
    (function,) = program.functions.values()
    tensors, known = {}, dict(start or {})
    for name in function.inputs:
        array = np.asarray(sample[name])
        tensors[name] = array.astype(np.float64) if array.dtype.kind == "f" else array

    def value(variable):
        if isinstance(variable, (list, tuple)):
            return [value(each) for each in variable]
        if variable.name in known:
            array = np.asarray(known[variable.name])
            return array.astype(np.float64) if array.dtype.kind == "f" else array
        if variable.name in tensors:
            return tensors[variable.name]
        constant = np.asarray(variable.val)
        if constant.dtype.kind in "US":
            return str(constant)
        return constant.astype(np.float64) if constant.dtype.kind == "f" else constant

    for operation in function.operations:
        if operation.op_type == "const":
            continue
        arguments = {
            name: value(variable)
            for name, variable in operation.inputs.items()
            if variable is not None
        }
        results = EVALUATORS[operation.op_type](**arguments)
        results = results if isinstance(results, list) else [results]
        for variable, result in zip(operation.outputs, results, strict=True):
            assert np.ndim(result) == len(variable.shape), (operation.op_type, result.shape)
            for length, typed in zip(result.shape, variable.shape, strict=True):
                assert length == typed or is_symbolic(typed), (operation.op_type, result.shape)
            is_half = type_name(variable) == "fp16"
            tensors[variable.name] = to_half(result) if rounds and is_half else result
    return tensors


def type_name(variable):
    from coremltools.converters.mil.mil import types  # noqa: TID251

    return types.builtin_to_string(variable.dtype)


def to_half(array):
    with np.errstate(over="ignore"):
        return np.asarray(array).astype(np.float16).astype(np.float64)


def same_pads(length, size, stride, *, lower):
    """Pads that keep ceil(length / stride) positions; an odd one goes to the back."""
    total = max(0, (math.ceil(length / stride) - 1) * stride + size - length)
    front = total // 2 + (total % 2 if lower else 0)
    return front, total - front


def conv(*, x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    rank = x.ndim - 2
    kernel = weight.shape[2:]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if pad_type == "valid":
        pads = [(0, 0)] * rank
    elif pad_type == "custom":
        pads = [(int(pad[2 * i]), int(pad[2 * i + 1])) for i in range(rank)]
    else:
        pads = [
            same_pads(x.shape[2 + i], spans[i], int(strides[i]), lower=pad_type == "same_lower")
            for i in range(rank)
        ]
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    sizes = [(padded.shape[2 + i] - spans[i]) // int(strides[i]) + 1 for i in range(rank)]
    n_groups = int(groups)
    n_out = weight.shape[0]
    inputs = padded.reshape(x.shape[0], n_groups, -1, *padded.shape[2:])
    weights = weight.reshape(n_groups, n_out // n_groups, -1, *kernel)
    result = np.zeros((x.shape[0], n_groups, n_out // n_groups, *sizes))
    for tap in itertools.product(*(range(k) for k in kernel)):
        window = tuple(
            slice(t * int(d), t * int(d) + (size - 1) * int(s) + 1, int(s))
            for t, d, s, size in zip(tap, dilations, strides, sizes, strict=True)
        )
        # n: batch, g: group, i and o: channels within the group
        seen = inputs[(slice(None), slice(None), slice(None), *window)]
        result += np.einsum("ngi...,goi->ngo...", seen, weights[(..., *tap)])
    result = result.reshape(x.shape[0], n_out, *sizes)
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def conv_transpose(
    *, x, weight, strides, pad_type, pad, dilations, groups, bias=None, output_shape=None
):
    rank = x.ndim - 2
    kernel = weight.shape[2:]
    n_groups = int(groups)
    lengths = x.shape[2:]
    full = [
        (n - 1) * int(s) + (k - 1) * int(d) + 1
        for n, s, k, d in zip(lengths, strides, kernel, dilations, strict=True)
    ]
    n_out = weight.shape[1] * n_groups
    inputs = x.reshape(x.shape[0], n_groups, -1, *lengths)
    weights = weight.reshape(n_groups, -1, weight.shape[1], *kernel)
    spread = np.zeros((x.shape[0], n_groups, weight.shape[1], *full))
    for tap in itertools.product(*(range(k) for k in kernel)):
        window = tuple(
            slice(t * int(d), t * int(d) + (n - 1) * int(s) + 1, int(s))
            for t, d, s, n in zip(tap, dilations, strides, lengths, strict=True)
        )
        contribution = np.einsum("ngi...,gio->ngo...", inputs, weights[(..., *tap)])
        spread[(slice(None), slice(None), slice(None), *window)] += contribution
    spread = spread.reshape(x.shape[0], n_out, *full)
    result = spread
    for i in range(rank):
        front, size = 0, full[i]
        wanted = None if output_shape is None else int(output_shape[2 + i])
        if pad_type == "custom":
            front = int(pad[2 * i])
            size = full[i] - front - int(pad[2 * i + 1]) if wanted is None else wanted
        else:
            natural = full[i] if pad_type == "valid" else lengths[i] * int(strides[i])
            size = natural if wanted is None else wanted
            surplus = max(0, full[i] - size)
            front = math.ceil(surplus / 2) if pad_type == "same_lower" else surplus // 2
        axis = 2 + i
        kept = np.take(result, [j for j in range(front, front + size) if j < full[i]], axis=axis)
        tail = [(0, 0)] * result.ndim
        tail[axis] = (0, size - kept.shape[axis])
        result = np.pad(kept, tail)
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def pad(*, x, pad, mode, constant_val):
    amounts = np.asarray(pad).reshape(-1, 2).tolist()
    amounts = [[0, 0]] * (x.ndim - len(amounts)) + amounts
    if mode == "constant":
        return np.pad(x, amounts, constant_values=constant_val)
    return np.pad(x, amounts, mode={"reflect": "reflect", "replicate": "edge"}[mode])


def slice_by_index(
    *, x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None
):
    chosen = []
    for axis in range(x.ndim):
        first = None if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        last = None if end_mask is not None and end_mask[axis] else int(end[axis])
        if squeeze_mask is not None and squeeze_mask[axis]:
            chosen.append(0 if first is None else first)
        else:
            chosen.append(slice(first, last, None if stride is None else int(stride[axis])))
    return np.asarray(x[tuple(chosen)])


def slice_by_size(*, x, begin, size):
    chosen = []
    for length, first, count in zip(x.shape, begin, size, strict=True):
        start = int(first) % length
        chosen.append(slice(start, length if count == -1 else start + int(count)))
    return x[tuple(chosen)]


def reshape(*, x, shape):
    lengths = [x.shape[i] if length == 0 else int(length) for i, length in enumerate(shape)]
    return x.reshape(lengths)


def concat(*, values, axis, interleave):
    if not interleave:
        return np.concatenate(values, axis=int(axis))
    axis = int(axis) % values[0].ndim
    result = np.empty(
        [n * (len(values) if i == axis else 1) for i, n in enumerate(values[0].shape)]
    )
    for i, part in enumerate(values):
        result[(slice(None),) * axis + (slice(i, None, len(values)),)] = part
    return result


def split(*, x, axis, num_splits=None, split_sizes=None):
    if split_sizes is None:
        return np.split(x, int(num_splits), axis=int(axis))
    return np.split(x, np.cumsum(split_sizes)[:-1], axis=int(axis))


def cast(*, x, dtype):
    if dtype in ("fp32", "fp16"):
        numbers = np.asarray(x, np.float64)
        return numbers.astype(np.float32).astype(np.float64) if dtype == "fp32" else numbers
    return x != 0 if dtype == "bool" else np.trunc(x).astype(np.int64).astype(dtype)


def prelu(*, x, alpha):
    slope = alpha.reshape(-1, *[1] * (x.ndim - 2))
    return np.where(x > 0, x, slope * x)


def silu(*, x):
    return x * special.expit(x)


EVALUATORS = {
    **evaluator_tensors.EVALUATORS,
    **layer_evaluator.EVALUATORS,
    **numerics.EVALUATORS,
    "abs": lambda x: np.abs(x),
    "add": lambda x, y: x + y,
    "cast": cast,
    "clip": lambda x, alpha, beta: np.minimum(np.maximum(x, alpha), beta),
    "concat": concat,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "exp": lambda x: np.exp(x),
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(int(axis) for axis in axes)),
    "identity": lambda x: x,
    "leaky_relu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
    "maximum": lambda x, y: np.maximum(x, y),
    "minimum": lambda x, y: np.minimum(x, y),
    "mul": lambda x, y: x * y,
    "pad": pad,
    "prelu": prelu,
    "real_div": lambda x, y: x / y,
    "relu": lambda x: np.where(x > 0, x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "reshape": reshape,
    "sigmoid": lambda x: special.expit(x),
    "silu": silu,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "split": split,
    "sqrt": lambda x: np.sqrt(x),
    "square": lambda x: x * x,
    "squeeze": lambda x, axes=None: np.squeeze(
        x, None if axes is None else tuple(int(axis) for axis in axes)
    ),
    "sub": lambda x, y: x - y,
    "tanh": lambda x: np.tanh(x),
    "transpose": lambda x, perm: np.transpose(x, [int(axis) for axis in perm]),
}

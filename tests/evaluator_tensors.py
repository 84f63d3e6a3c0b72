# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: A002 - the functions have the parameters' names
"""Evaluators of operations that pick, put, order, make, recur and decompress.

Plain loops over the elements, from the documentation of MIL's operations (the docstrings in
coremltools), in float64. What it leaves open of recurrent layers follows coremltools' tests.
"""

import math

import numpy as np

MODES = {
    "update": lambda old, new: new,
    "add": lambda old, new: old + new,
    "sub": lambda old, new: old - new,
    "mul": lambda old, new: old * new,
    "div": lambda old, new: old / new,
    "max": max,
    "min": min,
}


def gather(*, x, indices, axis=0, batch_dims=0, validate_indices=None):
    axis, batch = int(axis) % x.ndim, int(batch_dims)
    indices = np.asarray(indices, int)
    picked = indices.shape[batch:]
    result = np.empty((*x.shape[:axis], *picked, *x.shape[axis + 1 :]), x.dtype)
    for place in np.ndindex(*result.shape):
        front = place[:axis]
        within, behind = place[axis : axis + len(picked)], place[axis + len(picked) :]
        index = indices[(*front[:batch], *within)]
        result[place] = x[(*front, index, *behind)]
    return result


def gather_along_axis(*, x, indices, axis=0, validate_indices=None):
    result = np.empty(indices.shape, x.dtype)
    for place in np.ndindex(*indices.shape):
        source = list(place)
        source[int(axis)] = int(indices[place])
        result[place] = x[tuple(source)]
    return result


def gather_nd(*, x, indices, batch_dims=0, validate_indices=None):
    batch = int(batch_dims)
    depth = indices.shape[-1]
    result = np.empty((*indices.shape[:-1], *x.shape[batch + depth :]), x.dtype)
    for place in np.ndindex(*indices.shape[:-1]):
        result[place] = x[(*place[:batch], *(int(i) for i in indices[place]))]
    return result


def scatter(*, data, indices, updates, axis=0, mode="add", validate_indices=None):
    result = np.array(data)
    axis = int(axis) % data.ndim
    for place in np.ndindex(*updates.shape):
        target = (*place[:axis], int(indices[place[axis]]), *place[axis + 1 :])
        result[target] = MODES[mode](result[target], updates[place])
    return result


def scatter_along_axis(*, data, indices, updates, axis=0, mode="add", validate_indices=None):
    result = np.array(data)
    for place in np.ndindex(*updates.shape):
        target = list(place)
        target[int(axis)] = int(indices[place])
        result[tuple(target)] = MODES[mode](result[tuple(target)], updates[place])
    return result


def scatter_nd(*, data, indices, updates, mode="add", validate_indices=None):
    result = np.array(data)
    n = indices.ndim - 1
    for place in np.ndindex(*updates.shape):
        target = (*(int(i) for i in indices[place[:n]]), *place[n:])
        result[target] = MODES[mode](result[target], updates[place])
    return result


def slice_update(*, x, update, begin, end, stride=None, **masks):
    result = np.array(x)
    chosen = []
    for axis in range(x.ndim):
        is_set = {name: mask is not None and bool(mask[axis]) for name, mask in masks.items()}
        first = None if is_set.get("begin_mask") else int(begin[axis])
        last = None if is_set.get("end_mask") else int(end[axis])
        step = None if stride is None else int(stride[axis])
        squeezed = is_set.get("squeeze_mask")
        chosen.append((first or 0) if squeezed else slice(first, last, step))
    result[tuple(chosen)] = update
    return result


def reverse(*, x, axes=None):
    axes = range(x.ndim) if axes is None else [int(axis) for axis in axes]
    return np.flip(x, tuple(axes))


def reverse_sequence(*, x, lengths, seq_axis=0, batch_axis=0):
    result = np.empty_like(x)
    for place in np.ndindex(*x.shape):
        length, source = int(lengths[place[int(batch_axis)]]), list(place)
        if place[int(seq_axis)] < length:
            source[int(seq_axis)] = length - 1 - place[int(seq_axis)]
        result[place] = x[tuple(source)]
    return result


def argsort(*, x, axis=-1, ascending=False):
    return np.argsort(x if ascending else -x, axis=int(axis), kind="stable").astype(np.int32)


def topk(*, x, k=1, axis=-1, ascending=False, return_indices=True, **_):
    indices = argsort(x=x, axis=axis, ascending=ascending)
    if int(k) != -1:
        indices = np.take(indices, range(int(k)), axis=int(axis))
    values = np.take_along_axis(x, indices, axis=int(axis))
    return [values, indices] if return_indices else values


def range_1d(*, start, end, step):
    count = max(0, math.ceil((float(end) - float(start)) / float(step)))
    return np.array([start + i * step for i in range(count)])


def one_hot(*, indices, one_hot_vector_size, axis=-1, on_value=1, off_value=0):
    result = np.full((*indices.shape, int(one_hot_vector_size)), off_value)
    for place in np.ndindex(*indices.shape):
        if 0 <= indices[place] < int(one_hot_vector_size):
            result[(*place, int(indices[place]))] = on_value
    return np.moveaxis(result, -1, int(axis))


def band_part(*, x, lower=-1, upper=-1):
    result = np.array(x)
    for place in np.ndindex(*x.shape):
        m, n = place[-2:]
        if not ((lower < 0 or m - n <= lower) and (upper < 0 or n - m <= upper)):
            result[place] = 0
    return result


def cumsum(*, x, axis=0, exclusive=False, reverse=False):
    lines = np.moveaxis(x, int(axis), 0)
    result = np.zeros_like(lines)
    total = np.zeros_like(lines[0])
    for i in reversed(range(len(lines))) if reverse else range(len(lines)):
        if exclusive:
            result[i] = total
        total = total + lines[i]
        if not exclusive:
            result[i] = total
    return np.moveaxis(result, 0, int(axis))


def flatten2d(*, x, axis=1):
    return x.reshape(math.prod(x.shape[: int(axis)]), math.prod(x.shape[int(axis) :]))


ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}


def lstm(*, x, initial_h, initial_c, direction, output_sequence, **parameters):
    def half(suffix, inputs, h, c):
        acts = [
            ACTIVATIONS[parameters[name]]
            for name in ("recurrent_activation", "cell_activation", "activation")
        ]
        w, r = parameters[f"weight_ih{suffix}"], parameters[f"weight_hh{suffix}"]
        bias = parameters.get(f"bias{suffix}")
        peephole = parameters.get(f"peephole{suffix}")
        p_i, p_f, p_o = np.split(np.zeros(3 * h.shape[1]) if peephole is None else peephole, 3)
        states = []
        for step in inputs:
            gates = step @ w.T + h @ r.T + (0 if bias is None else bias)
            i, f, o, z = np.split(gates, 4, axis=1)
            i, f = acts[0](i + p_i * c), acts[0](f + p_f * c)
            c = f * c + i * acts[1](z)
            h = acts[0](o + p_o * c) * acts[2](c)
            states.append(h)
        return np.array(states), h, c

    if direction == "bidirectional":
        (h, h_back), (c, c_back) = (np.split(s, 2, axis=1) for s in (initial_h, initial_c))
        forth, back = half("", x, h, c), half("_back", x[::-1], h_back, c_back)
        sequence = np.concatenate([forth[0], back[0][::-1]], axis=2)
        h, c = (np.concatenate([forth[i], back[i]], axis=1) for i in (1, 2))
    else:
        inputs = x if direction == "forward" else x[::-1]
        sequence, h, c = half("", inputs, initial_h, initial_c)
    return [sequence if output_sequence else h[None], h, c]


def gru(
    *,
    x,
    initial_h,
    weight_ih,
    weight_hh,
    direction,
    output_sequence,
    recurrent_activation,
    activation,
    bias=None,
    **_,
):
    size = initial_h.shape[1]
    w_r, w_o, w_z = np.split(weight_ih, 3)
    u_r, u_o, u_z = np.split(weight_hh, 3)
    b_r, b_o, b_z = np.split(np.zeros(3 * size) if bias is None else bias, 3)
    gate, new = ACTIVATIONS[recurrent_activation], ACTIVATIONS[activation]
    h, states = initial_h, []
    for step in x if direction == "forward" else x[::-1]:
        r = gate(step @ w_r.T + h @ u_r.T + b_r)
        z = gate(step @ w_z.T + h @ u_z.T + b_z)
        o = new(step @ w_o.T + (r * h) @ u_o.T + b_o)
        h = (1 - z) * o + z * h
        states.append(h)
    return [np.array(states) if output_sequence else h[None], h]


def rnn(*, x, initial_h, weight_ih, weight_hh, direction, output_sequence, activation, bias=None):
    h, states = initial_h, []
    for step in x if direction == "forward" else x[::-1]:
        total = step @ weight_ih.T + h @ weight_hh.T
        h = ACTIVATIONS[activation](total if bias is None else total + bias)
        states.append(h)
    return [np.array(states) if output_sequence else h[None], h]


def non_maximum_suppression(
    *, boxes, scores, iou_threshold, max_boxes, score_threshold=None, per_class_suppression=False
):
    if score_threshold is None:
        boxes, scores = boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1)
    n_batch, n_boxes, n_classes = scores.shape
    max_boxes = int(max_boxes)
    picked, marks = np.zeros((n_batch, max_boxes, 4)), np.zeros((n_batch, max_boxes, n_classes))
    indices, counts = np.full((n_batch, max_boxes), -1), np.zeros(n_batch, int)
    for batch in range(n_batch):
        best, classes = scores[batch].max(axis=1), scores[batch].argmax(axis=1)
        kept = []
        for candidate in sorted(range(n_boxes), key=lambda i: -best[i]):
            if score_threshold is not None and best[candidate] < score_threshold:
                continue
            overlaps = [
                overlap(boxes[batch, candidate], boxes[batch, other])
                for other in kept
                if not per_class_suppression or classes[other] == classes[candidate]
            ]
            if all(each <= iou_threshold for each in overlaps):
                kept.append(candidate)
        kept = (kept or [int(np.argmax(best))])[:max_boxes]
        counts[batch] = len(kept)
        indices[batch, : len(kept)] = kept
        picked[batch, : len(kept)] = boxes[batch, kept]
        marks[batch, : len(kept)] = scores[batch, kept]
    if score_threshold is None:
        return [picked.transpose(0, 2, 1), marks.transpose(0, 2, 1), indices]
    return [picked, marks, indices, counts]


def overlap(one, other):
    """Area of the intersection over that of the union of boxes (x, y, width, height)."""
    sides = [
        max(0, min(a + p / 2, b + q / 2) - max(a - p / 2, b - q / 2))
        for a, b, p, q in zip(one[:2], other[:2], one[2:], other[2:], strict=True)
    ]
    common = sides[0] * sides[1]
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def column(values, x, axis):
    values = np.asarray(values, np.float64)
    if values.ndim == 0:
        return values
    shape = [1] * x.ndim
    shape[int(axis)] = -1
    return values.reshape(shape)


def quantize(*, input, scale, output_dtype, zero_point=0, axis=None):
    limits = np.iinfo(output_dtype)
    steps = np.round(input / column(scale, input, axis)) + column(zero_point, input, axis)
    return np.clip(steps, limits.min, limits.max).astype(output_dtype)


def dequantize(*, input, scale, zero_point=0, axis=None):
    numbers = input.astype(np.float64)
    return column(scale, input, axis) * (numbers - column(zero_point, input, axis))


def packed(data, n_bits, count):
    """Numbers of `n_bits` each, from the lowest bit of the first byte on."""
    bits = [(int(byte) >> i) & 1 for byte in data for i in range(8)]
    return [sum(bits[n * n_bits + i] << i for i in range(n_bits)) for n in range(count)]


def affine_dequantize(*, quantized_data, zero_point, scale, axis):
    return dequantize(input=quantized_data, scale=scale, zero_point=zero_point, axis=axis)


def lut_to_dense(*, indices, lut, shape=None, vector_axis=None):
    if shape is not None:
        numbers = packed(indices, int(math.log2(len(lut))), math.prod(int(n) for n in shape))
        return lut[numbers].reshape([int(n) for n in shape])
    size = lut.shape[-1]
    axis = 0 if vector_axis is None else int(vector_axis) % indices.ndim
    result = np.empty([n * (size if i == axis else 1) for i, n in enumerate(indices.shape)])
    for place in np.ndindex(*indices.shape):
        blocks = [n * b // m for n, b, m in zip(place, lut.shape, indices.shape, strict=False)]
        for i in range(size):
            target = list(place)
            target[axis] = place[axis] * size + i
            result[tuple(target)] = lut[(*blocks, int(indices[place]), i)]
    return result


def sparse_to_dense(*, nonzero_data, mask, shape=None):
    if shape is not None:
        shape = [int(n) for n in shape]
        mask = np.reshape(packed(mask, 1, math.prod(shape)), shape)
    values = iter(np.asarray(nonzero_data).tolist())
    return np.array([next(values) if bit else 0 for bit in np.ravel(mask)]).reshape(mask.shape)


def blockwise_shift_scale(*, data, scale, offset=None):
    result = np.empty(data.shape)
    for place in np.ndindex(*data.shape):
        block = tuple(n * b // m for n, b, m in zip(place, scale.shape, data.shape, strict=True))
        shift = 0 if offset is None else float(offset[block])
        result[place] = float(scale[block]) * (float(data[place]) - shift)
    return result


def lut_to_sparse(*, indices_mask, indices_nonzero_data, lut, vector_axis=None):
    indices = sparse_to_dense(nonzero_data=indices_nonzero_data, mask=indices_mask)
    dense = lut_to_dense(indices=indices, lut=lut, vector_axis=vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = np.repeat(mask, lut.shape[-1], axis=int(vector_axis))
    return [mask, dense[mask == 1]]


def sparse_blockwise_shift_scale(*, data_mask, nonzero_data, scale, offset=None):
    data = sparse_to_dense(nonzero_data=nonzero_data, mask=data_mask)
    dense = blockwise_shift_scale(data=data, scale=scale, offset=offset)
    return [data_mask, dense[data_mask == 1]]


EVALUATORS = {
    "argsort": argsort,
    "band_part": band_part,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": lambda source_val, output_dtype: source_val,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_lut_to_sparse": lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": sparse_to_dense,
    "cumsum": cumsum,
    "dequantize": dequantize,
    "fill": lambda shape, value=0.0: np.full([int(n) for n in shape], value),
    "fill_like": lambda ref_tensor, value=0.0: np.full(ref_tensor.shape, value),
    "flatten2d": flatten2d,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "gru": gru,
    "lstm": lstm,
    "non_maximum_suppression": non_maximum_suppression,
    "non_zero": lambda x: np.argwhere(x).astype(np.int32),
    "one_hot": one_hot,
    "quantize": quantize,
    "range_1d": range_1d,
    "reverse": reverse,
    "reverse_sequence": reverse_sequence,
    "rnn": rnn,
    "scatter": scatter,
    "scatter_along_axis": scatter_along_axis,
    "scatter_nd": scatter_nd,
    "shape": lambda x: np.array(x.shape, np.int32),
    "slice_update": slice_update,
    "stack": lambda values, axis: np.stack(values, axis=int(axis)),
    "tile": lambda x, reps: np.tile(x, [int(n) for n in reps]),
    "topk": topk,
}

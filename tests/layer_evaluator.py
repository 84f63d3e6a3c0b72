# SPDX-License-Identifier: BSD-3-Clause
"""NumPy evaluators of matrix products, pooling, resizing and rearrangements.

Written from the documentation of MIL's operations, and of the TensorFlow and PyTorch operations
that it refers to, in float64: one plain loop per element, window or axis.
"""

import itertools
import math

import numpy as np


def matmul(*, x, y, transpose_x, transpose_y):
    x = np.swapaxes(x, -1, -2) if transpose_x else x
    y = np.swapaxes(y, -1, -2) if transpose_y else y
    return np.matmul(x, y)


def einsum(*, values, equation):
    x, y = values
    assert str(equation).replace(" ", "")
    # (..., c, h, w) and (..., w, h, u): the sum over w, with batch and h broadcast.
    products = x[..., :, :, :, None] * np.moveaxis(y, -3, -2)[..., None, :, :, :]
    return products.sum(axis=-2)


def scaled_dot_product_attention(*, query, key, value, attn_mask=None):
    scores = np.matmul(query, np.swapaxes(key, -1, -2)) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        if attn_mask.dtype == bool:
            scores = np.where(attn_mask, scores, -np.inf)
        else:
            scores = scores + attn_mask
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.matmul(powers / powers.sum(axis=-1, keepdims=True), value)


def pool(reduce, *, x, kernel_sizes, strides, pad_type, pad, ceil_mode):
    """Apply `reduce` to the values of each window, and to how many positions it has with pads."""
    rank = x.ndim - 2
    fronts, backs, counts = [], [], []
    for i in range(rank):
        length, size, stride = x.shape[2 + i], int(kernel_sizes[i]), int(strides[i])
        front, back = 0, 0
        if pad_type == "custom":
            front, back = int(pad[2 * i]), int(pad[2 * i + 1])
        elif pad_type in ("same", "same_lower"):
            total = max(0, (math.ceil(length / stride) - 1) * stride + size - length)
            front = math.ceil(total / 2) if pad_type == "same_lower" else total // 2
            back = total - front
        room = (length + front + back - size) / stride
        count = (math.ceil(room) if ceil_mode else math.floor(room)) + 1
        if ceil_mode and (count - 1) * stride >= length + front and front + back > 0:
            count -= 1
        fronts.append(front)
        backs.append(back)
        counts.append(count)
    result = np.empty((*x.shape[:2], *counts))
    for place in itertools.product(*(range(count) for count in counts)):
        window, n_positions = [slice(None), slice(None)], 1
        for i, p in enumerate(place):
            start = p * int(strides[i]) - fronts[i]
            end = start + int(kernel_sizes[i])
            length = x.shape[2 + i]
            window.append(slice(max(0, start), max(0, min(end, length))))
            n_positions *= min(end, length + backs[i]) - start
        seen = x[tuple(window)].reshape(*x.shape[:2], -1)
        result[(slice(None), slice(None), *place)] = reduce(seen, n_positions)
    return result


def avg_pool(*, exclude_padding_from_average, **arguments):
    def mean(seen, n_positions):
        return seen.sum(axis=-1) / (seen.shape[-1] if exclude_padding_from_average else n_positions)

    return pool(mean, **arguments)


def max_pool(**arguments):
    return pool(lambda seen, _: seen.max(axis=-1), **arguments)


def l2_pool(**arguments):
    return pool(lambda seen, _: np.sqrt((seen**2).sum(axis=-1)), **arguments)


def grid_point(mode, i, n_in, n_out):
    """The formulas in MIL's documentation of ``resize_bilinear``."""
    if mode == "ALIGN_CORNERS" and n_out == 1:
        return (n_in - 1) / 2
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        point = i * (n_in - 1) / (n_out - 1) if n_out > 1 else 0
    elif mode == "DEFAULT":
        point = i * (n_in - n_in / n_out) / (n_out - 1) if n_out > 1 else 0
    elif mode == "OFFSET_CORNERS":
        delta = max(1, n_in - 1) / n_out
        point = 0.5 * delta + i * delta
    else:
        assert mode == "UNALIGN_CORNERS"
        spacing = n_in / n_out
        point = i * spacing + 0.5 * spacing - 0.5
    return min(n_in - 1, max(0, point))


def sample_axis(x, axis, points):
    slices = []
    for point in points:
        below = math.floor(point)
        above = min(below + 1, x.shape[axis] - 1)
        weight = point - below
        slices.append(x.take(below, axis) * (1 - weight) + x.take(above, axis) * weight)
    return np.stack(slices, axis)


def resize_axes(x, sizes, mode):
    for axis, size in sizes.items():
        points = [grid_point(mode, i, x.shape[axis], size) for i in range(size)]
        x = sample_axis(x, axis, points)
    return x


def upsampled_sizes(x, height, width):
    return {-2: math.floor(x.shape[-2] * height), -1: math.floor(x.shape[-1] * width)}


def upsample_bilinear(
    *, x, scale_factor_height, scale_factor_width, align_corners, half_pixel_centers=None
):
    halves = not align_corners if half_pixel_centers is None else bool(half_pixel_centers)
    mode = {
        (True, False): "STRICT_ALIGN_CORNERS",
        (False, True): "UNALIGN_CORNERS",
        (False, False): "DEFAULT",
    }[bool(align_corners), halves]
    return resize_axes(x, upsampled_sizes(x, scale_factor_height, scale_factor_width), mode)


def resize_bilinear(*, x, target_size_height, target_size_width, sampling_mode):
    sizes = {-2: int(target_size_height), -1: int(target_size_width)}
    return resize_axes(x, sizes, str(sampling_mode))


def upsample_nearest_neighbor(*, x, scale_factor_height, scale_factor_width):
    for axis, size in upsampled_sizes(x, scale_factor_height, scale_factor_width).items():
        x = np.stack([x.take(i * x.shape[axis] // size, axis) for i in range(size)], axis)
    return x


def nearest_axes(x, sizes):
    """TensorFlow's ResizeNearestNeighbor with half_pixel_centers."""
    for axis, size in sizes.items():
        ratio = x.shape[axis] / size
        chosen = [math.floor((i + 0.5) * ratio + 1e-9) for i in range(size)]
        x = np.stack([x.take(min(c, x.shape[axis] - 1), axis) for c in chosen], axis)
    return x


def resize_nearest_neighbor(*, x, target_size_height, target_size_width):
    return nearest_axes(x, {-2: int(target_size_height), -1: int(target_size_width)})


def resize(*, x, shape, resized_dims, interpolation_mode, sampling_mode):
    sizes = {}
    for axis in range(-int(resized_dims), 0):
        sizes[axis] = int(shape[axis]) or x.shape[axis]
    if interpolation_mode == "LINEAR":
        return resize_axes(x, sizes, str(sampling_mode))
    if sampling_mode == "DEFAULT":
        return nearest_axes(x, sizes)
    for axis, size in sizes.items():
        points = [grid_point(str(sampling_mode), i, x.shape[axis], size) for i in range(size)]
        x = np.stack([x.take(math.floor(point + 0.5), axis) for point in points], axis)
    return x


def crop_resize(
    *,
    x,
    target_height,
    target_width,
    normalized_coordinates,
    spatial_scale,
    box_coordinate_mode,
    sampling_mode,
    roi=None,
    boxes=None,
    box_indices=None,
    pad_value=0.0,
):
    n, c, h, w = x.shape
    corners = roi.reshape(roi.shape[0], -1)[:, -4:] if boxes is None else boxes
    sizes = (int(target_height), int(target_width))
    results = np.empty((len(corners), n, c, *sizes))
    for k, box in enumerate(np.asarray(corners, np.float64)):
        scaled = box * float(spatial_scale)
        if box_coordinate_mode == "CORNERS_WIDTH_FIRST":
            scaled = scaled[[1, 0, 3, 2]]
        if normalized_coordinates:
            scaled = scaled * [h - 1, w - 1, h - 1, w - 1]
        for i, j in itertools.product(*(range(size) for size in sizes)):
            row = box_point(str(sampling_mode), i, scaled[0], scaled[2], sizes[0])
            column = box_point(str(sampling_mode), j, scaled[1], scaled[3], sizes[1])
            if 0 <= row <= h - 1 and 0 <= column <= w - 1:
                value = sample_axis(sample_axis(x, -2, [row]), -1, [column])[..., 0, 0]
            else:
                value = float(pad_value)
            results[k, :, :, i, j] = value
    if boxes is None:
        return results
    return np.stack([results[k, int(image)] for k, image in enumerate(box_indices)])


def box_point(mode, i, start, end, count):
    """A grid point of an interval of ``end - start + 1`` elements that begins at `start`."""
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS") and count > 1:
        return start + i * (end - start) / (count - 1) if i < count - 1 else end
    return start + grid_point(mode, i, end - start + 1, count)


def element(x, row, column, padding_mode, padding_value):
    """One pixel of the padded image, as far out as one likes."""
    places = []
    for place, length in ((row, x.shape[-2]), (column, x.shape[-1])):
        if padding_mode == "constant" and not 0 <= place < length:
            return np.full(x.shape[0], float(padding_value))
        period = list(range(length))
        if padding_mode == "reflection":
            period += period[-2:0:-1]
        elif padding_mode == "symmetric":
            period += period[::-1]
        if padding_mode == "border":
            places.append(min(max(place, 0), length - 1))
        else:
            places.append(period[place % len(period)])
    return x[:, places[0], places[1]]


def sample_image(x, row, column, *, sampling_mode, padding_mode, padding_value):
    """Sample the padded image (c, h, w) at one place."""
    if sampling_mode == "nearest":
        return element(x, round(row), round(column), padding_mode, padding_value)
    total = 0.0
    for i, j in itertools.product((0, 1), (0, 1)):
        r, c = math.floor(row) + i, math.floor(column) + j
        weight = (1 - abs(row - r)) * (1 - abs(column - c))
        total = total + weight * element(x, r, c, padding_mode, padding_value)
    return total


def in_elements(coordinate, length, mode, align_corners):
    if mode == "unnormalized":
        return float(coordinate)
    fraction = (coordinate + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinate
    return fraction * (length - 1) if align_corners else fraction * length - 0.5


def resample(
    *, x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners
):
    n, c, h, w = x.shape
    result = np.empty((n, c, *coordinates.shape[1:3]))
    for b, i, j in np.ndindex(n, *coordinates.shape[1:3]):
        across, down = coordinates[b, i, j]
        row = in_elements(down, h, coordinates_mode, align_corners)
        column = in_elements(across, w, coordinates_mode, align_corners)
        result[b, :, i, j] = sample_image(
            x[b],
            row,
            column,
            sampling_mode=sampling_mode,
            padding_mode=padding_mode,
            padding_value=padding_value,
        )
    return result


def affine(*, x, transform_matrix, output_height, output_width, **arguments):
    n, height, width = x.shape[0], int(output_height), int(output_width)
    coordinates = np.empty((n, height, width, 2))
    for b, i, j in np.ndindex(n, height, width):
        across, down = -1 + 2 * j / (width - 1), -1 + 2 * i / (height - 1)
        a0, a1, a2, b0, b1, b2 = transform_matrix[b if len(transform_matrix) > 1 else 0]
        coordinates[b, i, j] = (
            a0 * across + a1 * down + a2,
            b0 * across + b1 * down + b2,
        )
    return resample(x=x, coordinates=coordinates, **arguments)


def pixel_shuffle(*, x, upscale_factor):
    f = int(upscale_factor)
    n, c, h, w = x.shape
    result = np.empty((n, c // f**2, h * f, w * f))
    for k, i, j in np.ndindex(c // f**2, f, f):
        result[:, k, i::f, j::f] = x[:, k * f * f + i * f + j]
    return result


def pixel_unshuffle(*, x, downscale_factor):
    f = int(downscale_factor)
    n, c, h, w = x.shape
    result = np.empty((n, c * f**2, h // f, w // f))
    for k, i, j in np.ndindex(c, f, f):
        result[:, k * f * f + i * f + j] = x[:, k, i::f, j::f]
    return result


def depth_to_space(*, x, block_size):
    b = int(block_size)
    n, c, h, w = x.shape
    depth = c // b**2
    result = np.empty((n, depth, h * b, w * b))
    for i, j, k in np.ndindex(b, b, depth):
        result[:, k, i::b, j::b] = x[:, (i * b + j) * depth + k]
    return result


def space_to_depth(*, x, block_size):
    b = int(block_size)
    n, c, h, w = x.shape
    result = np.empty((n, c * b**2, h // b, w // b))
    for i, j, k in np.ndindex(b, b, c):
        result[:, (i * b + j) * c + k] = x[:, k, i::b, j::b]
    return result


def space_to_batch(*, x, block_shape, paddings):
    rows, columns = (int(each) for each in block_shape)
    padded = np.pad(x, [(0, 0), (0, 0), *np.asarray(paddings).tolist()])
    blocks = [padded[:, :, i::rows, j::columns] for i in range(rows) for j in range(columns)]
    return np.concatenate(blocks)


def batch_to_space(*, x, block_shape, crops):
    rows, columns = (int(each) for each in block_shape)
    n, c, h, w = x.shape
    result = np.empty((n // (rows * columns), c, h * rows, w * columns))
    parts = np.split(x, rows * columns)
    for part, (i, j) in zip(parts, itertools.product(range(rows), range(columns)), strict=True):
        result[:, :, i::rows, j::columns] = part
    (top, bottom), (left, right) = np.asarray(crops).tolist()
    return result[:, :, top : h * rows - bottom, left : w * columns - right]


def crop(*, x, crop_height, crop_width):
    (top, bottom), (left, right) = np.ravel(crop_height), np.ravel(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def sliding_windows(*, x, axis, size, stride):
    axis = int(axis) % x.ndim
    starts = range(0, x.shape[axis] - int(size) + 1, int(stride))
    windows = [x.take(range(start, start + int(size)), axis) for start in starts]
    return np.stack(windows, axis)


def reshape_like(*, x, ref_tensors, begins, ends, end_masks):
    shape = []
    for reference, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[int(begin) : None if mask else int(end)]
    return x.reshape(shape)


EVALUATORS = {
    "affine": affine,
    "avg_pool": avg_pool,
    "batch_to_space": batch_to_space,
    "crop": crop,
    "crop_resize": crop_resize,
    "depth_to_space": depth_to_space,
    "einsum": einsum,
    "l2_pool": l2_pool,
    "linear": lambda x, weight, bias=0.0: np.matmul(x, weight.T) + bias,
    "matmul": matmul,
    "max_pool": max_pool,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "resample": resample,
    "reshape_like": reshape_like,
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "sliding_windows": sliding_windows,
    "space_to_batch": space_to_batch,
    "space_to_depth": space_to_depth,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}

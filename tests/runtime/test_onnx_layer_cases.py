# SPDX-License-Identifier: BSD-3-Clause
"""Layers against the node test cases of ONNX, whose results were computed by its own reference."""

import importlib
import warnings

import numpy as np
from onnx import helper
from programs import make_package, mb

from convcal.errors import UnsupportedModelError
from convcal.runtime.reference import ReferenceRunner

MODULES = (
    "averagepool",
    "maxpool",
    "depthtospace",
    "spacetodepth",
    "resize",
    "gridsample",
    "matmul",
)

# What ONNX defines and MIL does not.
UNDEFINED = (
    "a window lies outside the input",
    "disagree about a vector times a batch",
    "is in the middle of two",
)


def collected():
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX's exporters divide by zero on their way
        for name in MODULES:
            # The cases are made, and listed, as the module is imported.
            importlib.import_module(f"onnx.backend.test.case.node.{name}")
    for case in node._NodeTestCases:
        if not case.name.endswith("_expanded"):
            yield case


def pooled(kind, x, *, attributes, n_axes, **options):
    pads = attributes.get("pads", [0] * 2 * n_axes)
    pad_type = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}
    return getattr(mb, kind)(
        x=x,
        kernel_sizes=attributes["kernel_shape"],
        strides=attributes.get("strides", [1] * n_axes),
        pad_type=pad_type.get(attributes.get("auto_pad"), "custom"),
        pad=[pads[i + j * n_axes] for i in range(n_axes) for j in range(2)],
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        **options,
    )


def built(operation, arrays, result, attributes):
    """Give the MIL operation that an ONNX node is, as a function of x; None if there is none."""
    kind, n_axes = operation, arrays[0].ndim - 2
    mode = attributes.get("mode")
    if kind in ("AveragePool", "MaxPool"):
        pads = attributes.get("pads", [0] * 2 * n_axes)
        is_ceil = attributes.get("ceil_mode", 0)
        if max(attributes.get("dilations", [1])) > 1 or attributes.get("storage_order"):
            return None
        if is_ceil and (n_axes == 3 or pads[:n_axes] != pads[n_axes:]):
            return None
        if kind == "MaxPool":
            return lambda x: pooled("max_pool", x, attributes=attributes, n_axes=n_axes)
        excludes = not attributes.get("count_include_pad", 0)
        return lambda x: pooled(
            "avg_pool",
            x,
            attributes=attributes,
            n_axes=n_axes,
            exclude_padding_from_average=excludes,
        )
    if kind == "DepthToSpace":
        size = attributes["blocksize"]
        if mode == "CRD":
            return lambda x: mb.pixel_shuffle(x=x, upscale_factor=size)
        return lambda x: mb.depth_to_space(x=x, block_size=size)
    if kind == "SpaceToDepth":
        size = attributes["blocksize"]
        if mode == "CRD":
            return lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(size))
        return lambda x: mb.space_to_depth(x=x, block_size=size)
    if kind == "MatMul":
        if arrays[1].ndim == 1:
            return None
        return lambda x: mb.matmul(x=x, y=arrays[1])
    if kind == "GridSample" and n_axes == 2:
        padding, is_aligned = attributes.get("padding_mode", "zeros"), attributes["align_corners"]
        reflection = "reflection" if is_aligned else "symmetric"
        paddings = {"zeros": "constant", "border": "border", "reflection": reflection}
        if mode not in ("linear", "nearest"):
            return None
        return lambda x: mb.resample(
            x=x,
            coordinates=arrays[1],
            sampling_mode="bilinear" if mode == "linear" else mode,
            padding_mode=paddings[padding],
            padding_value=np.float32(0),
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=bool(is_aligned),
        )
    if kind == "Resize":
        return resized(arrays, result, attributes)
    return None


def resized(arrays, result, attributes):
    mode = attributes.get("mode", "nearest")
    place = attributes.get("coordinate_transformation_mode", "half_pixel")
    sizes = result.shape[2:]
    scales = [n / m for n, m in zip(sizes, arrays[0].shape[2:], strict=True)]
    stated = [float(each) for each in arrays[1][-2:]] if len(arrays) == 2 else scales
    if arrays[0].dtype != np.float32 or attributes.get("antialias") or mode == "cubic":
        return None
    if place == "tf_crop_and_resize" and mode == "linear":
        box = arrays[1].reshape(2, -1)
        if "axes" in attributes and attributes["axes"] != [2, 3]:
            return None
        return lambda x: mb.crop_resize(
            x=x,
            boxes=box[:, -2:].reshape(1, 4).astype(np.float32),
            box_indices=[0],
            target_height=sizes[0],
            target_width=sizes[1],
            normalized_coordinates=True,
            sampling_mode="ALIGN_CORNERS",
            pad_value=np.float32(attributes.get("extrapolation_value", 0)),
        )
    modes = {"half_pixel": "UNALIGN_CORNERS", "align_corners": "STRICT_ALIGN_CORNERS"}
    # MIL goes by the lengths, ONNX by the scales that it is given.
    goes_by_lengths = stated == scales or stated == [float(size) for size in sizes]
    if place not in modes or not goes_by_lengths or "nearest_mode" in attributes:
        return None
    return lambda x: mb.resize(
        x=x,
        shape=list(sizes),
        resized_dims=np.uint32(2),
        interpolation_mode="LINEAR" if mode == "linear" else "NEAREST_NEIGHBOR",
        sampling_mode=modes[place],
    )


def node_cases():
    """ONNX's cases that MIL has an operation for: builder, inputs and result by name."""
    found = {}
    for case in collected():
        if len(case.model.graph.node) > 1:
            continue  # an operator written out in others
        (node,) = case.model.graph.node
        arrays, results = case.data_sets[0]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in attributes.items()
        }
        if node.op_type == "GridSample":
            attributes = {"align_corners": 0, "mode": "linear", **attributes}
        arrays = [array for array in arrays if isinstance(array, np.ndarray) and array.size]
        if arrays[0].dtype == np.float32 and len(results) == 1:
            build = built(node.op_type, arrays, results[0], attributes)
            if build is not None:
                found[case.name] = (build, arrays[0], results[0])
    return found


def test_layers_agree_with_the_cases_of_onnx():
    cases = node_cases()
    assert len(cases) > 40
    wrong, refused = [], []
    for name, (build, x, expected) in cases.items():
        package = make_package(build, x=x.shape, target="iOS17")
        try:
            runner = ReferenceRunner(package, threads=1)
        except UnsupportedModelError as error:
            refused.append(str(error))
            continue
        with runner:
            (result,) = runner.run({"x": x}).values()
        # This one's expected results are written with four decimals.
        atol = 1e-4 if name == "test_averagepool_2d_ceil_last_window_starts_on_pad" else 1e-6
        if result.shape != expected.shape or not np.allclose(result, expected, 1e-5, atol):
            wrong.append((name, result, expected))
    assert not wrong
    assert len(refused) <= 5
    assert all(any(reason in message for reason in UNDEFINED) for message in refused)

# SPDX-License-Identifier: BSD-3-Clause
"""Programs of operations that pick, put, order, make, recur and quantise, by operation.

A case is a function of a program, its target, and its inputs by name.
"""

import numpy as np
from programs import mb

GENERATOR = np.random.default_rng(7)


def draw(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def whole(low, high, *shape):
    return GENERATOR.integers(low, high, shape).astype(np.int32)


def distinct(high, *shape):
    """Integers from 0 to below `high`, each row without repetition."""
    rows = [GENERATOR.permutation(high)[: shape[-1]] for _ in range(int(np.prod(shape[:-1])))]
    return np.array(rows, np.int32).reshape(shape)


def case(build, target="iOS15", **inputs):
    return build, target, inputs


def on_x(kind, x, target="iOS15", **options):
    """A case of an operation of one tensor."""
    operation = getattr(mb, kind)

    def build(x):
        results = operation(x=x, **options)
        return tuple(results) if isinstance(results, (list, tuple)) else results

    return case(build, target, x=x)


def to_float(x):
    return mb.cast(x=x, dtype="fp32")


def lstm(direction, *, sequence, bias=True, peephole=False, names=("sigmoid", "tanh", "tanh")):
    directions = 2 if direction == "bidirectional" else 1
    size, n_inputs = 3, 4
    arguments = {
        "recurrent_activation": names[0],
        "cell_activation": names[1],
        "activation": names[2],
    }
    for suffix in ("", "_back")[:directions]:
        arguments[f"weight_ih{suffix}"] = draw(4 * size, n_inputs)
        arguments[f"weight_hh{suffix}"] = draw(4 * size, size)
        if bias:
            arguments[f"bias{suffix}"] = draw(4 * size)
        if peephole:
            arguments[f"peephole{suffix}"] = draw(3 * size)
    return case(
        lambda x, h, c: tuple(
            mb.lstm(
                x=x,
                initial_h=h,
                initial_c=c,
                direction=direction,
                output_sequence=sequence,
                **arguments,
            )
        ),
        x=draw(5, 2, n_inputs),
        h=draw(2, directions * size),
        c=draw(2, directions * size),
    )


def layer(kind, direction, *, sequence, bias=True, **names):
    gates, size, n_inputs = (3 if kind == "gru" else 1), 3, 4
    arguments = {
        "weight_ih": draw(gates * size, n_inputs),
        "weight_hh": draw(gates * size, size),
        **({"bias": draw(gates * size)} if bias else {}),
        **names,
    }
    operation = getattr(mb, kind)
    return case(
        lambda x, h: tuple(
            operation(x=x, initial_h=h, direction=direction, output_sequence=sequence, **arguments)
        ),
        x=draw(5, 2, n_inputs),
        h=draw(2, size),
    )


def scattered(kind, indices, updates, target="iOS15", **options):
    """Every mode at once: one output per mode."""
    operation = getattr(mb, kind)

    def build(data):
        return tuple(
            operation(data=data, indices=indices, updates=updates, mode=mode, **options)
            for mode in ("update", "add", "sub", "mul", "div", "max", "min")
        )

    return case(build, target, data=draw(4, 5, 3))


def suppression(target, n_classes=3, **options):
    boxes, scores = draw(2, 20, 4), draw(2, 20, n_classes)
    boxes[..., 2:] = 1 + np.abs(boxes[..., 2:])
    if target == "iOS17":
        boxes, scores = boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1)
    return case(
        lambda b, s: tuple(mb.non_maximum_suppression(boxes=b, scores=s, **options)),
        target,
        b=boxes,
        s=scores,
    )


def one_hot(axis):
    return case(
        lambda i: mb.one_hot(
            indices=i, one_hot_vector_size=4, axis=axis, on_value=2.0, off_value=-1.0
        ),
        i=np.int32([[0, 3, -1], [4, 1, 2]]),
    )


def reverse_sequence(seq_axis, batch_axis, lengths):
    return case(
        lambda x, n: mb.reverse_sequence(x=x, lengths=n, seq_axis=seq_axis, batch_axis=batch_axis),
        x=X,
        n=np.int32(lengths),
    )


X = draw(3, 4, 5)
SEQUENCES = (True, False)

CASES = {
    "argsort": [
        case(lambda x: mb.argsort(x=x, axis=1, ascending=True), x=X),
        case(lambda x: mb.argsort(x=x), x=X),
        case(lambda x: mb.argsort(x=x, axis=0), x=whole(0, 3, 6, 2)),
    ],
    "band_part": [
        on_x("band_part", X, lower=lower, upper=upper)
        for lower, upper in ((0, -1), (-1, 0), (0, 0), (1, 2), (-1, -1))
    ],
    "cumsum": [
        on_x("cumsum", X, axis=axis, exclusive=exclusive, reverse=reverse)
        for axis, exclusive, reverse in ((0, False, False), (1, True, False), (-1, True, True))
    ],
    "dequantize": [
        case(
            lambda x: mb.dequantize(
                input=mb.quantize(input=x, scale=0.03, output_dtype="int8"),
                scale=np.float32([0.1, 0.2, 0.3, 0.4]),
                zero_point=np.int8([-128, 0, 5, 127]),
                axis=-2,
            ),
            "iOS17",
            x=X,
        )
    ],
    "fill": [
        case(
            lambda x: mb.fill(shape=mb.cast(x=x, dtype="int32"), value=2.5),
            x=np.float32([2, 3]),
        )
    ],
    "fill_like": [case(lambda x: mb.fill_like(ref_tensor=x, value=-1.5), "iOS16", x=X)],
    "flatten2d": [on_x("flatten2d", X, axis=axis) for axis in (0, 1, 2, -1)],
    "gather": [
        case(lambda x: mb.gather(x=x, indices=[3, 0, 0, -1], axis=-2), x=X),
        case(lambda x: mb.gather(x=x, indices=[[2, 0], [1, 1]], axis=0), "iOS17", x=X),
        case(lambda x: mb.gather(x=x, indices=1, axis=1), "iOS17", x=X),
        case(lambda x, i: mb.gather(x=x, indices=i, axis=1), x=X, i=whole(-4, 4, 2, 3)),
        case(lambda x, i: mb.gather(x=x, indices=i, axis=2), "iOS17", x=X, i=whole(0, 5, 6)),
        case(
            lambda x, i: mb.gather(x=x, indices=mb.squeeze(x=i), axis=1),
            "iOS17",
            x=X,
            i=whole(0, 4, 1),
        ),
        case(
            lambda x, i: mb.gather(x=x, indices=i, axis=2, batch_dims=1),
            "iOS16",
            x=X,
            i=whole(-5, 5, 3, 2, 2),
        ),
        case(
            lambda x, i: mb.gather(x=x, indices=i, axis=2, batch_dims=2),
            "iOS17",
            x=draw(2, 3, 4, 5),
            i=whole(0, 4, 2, 3),
        ),
    ],
    "gather_along_axis": [
        case(
            lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=1),
            "iOS17",
            x=X,
            i=whole(0, 4, 3, 6, 5),
        ),
        case(
            lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=-1), x=X, i=whole(-5, 5, 3, 4, 2)
        ),
    ],
    "gather_nd": [
        case(lambda x, i: mb.gather_nd(x=x, indices=i), x=X, i=whole(-3, 3, 2, 4, 2)),
        case(
            lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
            "iOS17",
            x=X,
            i=whole(0, 4, 3, 2, 2),
        ),
    ],
    "gru": [
        layer("gru", "forward", sequence=True),
        layer("gru", "reverse", sequence=True),
        layer("gru", "reverse", sequence=False, bias=False),
        layer("gru", "forward", sequence=True, recurrent_activation="tanh", activation="sigmoid"),
    ],
    "lstm": [
        *(
            lstm(direction, sequence=sequence)
            for direction in ("forward", "reverse", "bidirectional")
            for sequence in SEQUENCES
        ),
        lstm("bidirectional", sequence=True, bias=False, peephole=True),
        lstm("forward", sequence=True, names=("sigmoid", "linear", "relu")),
        lstm("bidirectional", sequence=True, names=("tanh", "sigmoid", "linear")),
    ],
    "non_maximum_suppression": [
        suppression("iOS15", iou_threshold=0.3, score_threshold=0.2, max_boxes=6),
        suppression("iOS15", iou_threshold=0.1, score_threshold=0.2, max_boxes=30),
        suppression("iOS16", iou_threshold=0.3, score_threshold=9.0, max_boxes=3),
        suppression("iOS17", iou_threshold=0.2, max_boxes=15),
        suppression("iOS17", 1, iou_threshold=0.2, max_boxes=15),
        suppression("iOS17", iou_threshold=0.2, max_boxes=25, per_class_suppression=True),
        suppression(
            "iOS15",
            iou_threshold=0.1,
            score_threshold=0.5,
            max_boxes=6,
            per_class_suppression=True,
        ),
    ],
    "non_zero": [
        case(lambda x: mb.non_zero(x=x), x=np.float32([[0, 1, 0], [2, 0, -3]])),
    ],
    "one_hot": [one_hot(-1), one_hot(0), one_hot(1)],
    "quantize": [
        case(
            lambda x: to_float(
                mb.quantize(
                    input=x,
                    scale=np.float32([0.5, 0.25, 0.125]),
                    zero_point=np.uint8([0, 100, 255]),
                    output_dtype="uint8",
                    axis=0,
                )
            ),
            "iOS17",
            # Multiples of an eighth: ties, which go to even numbers.
            x=np.round(8 * X * 4) / 8,
        )
    ],
    "range_1d": [
        case(
            lambda x, y, z: mb.range_1d(
                start=mb.squeeze(x=x), end=mb.squeeze(x=y), step=mb.squeeze(x=z)
            ),
            x=np.float32([0.5]),
            y=np.float32([9.9]),
            z=np.float32([0.1]),
        ),
        case(
            lambda x, y: to_float(mb.range_1d(start=mb.squeeze(x=x), end=mb.squeeze(x=y), step=-2)),
            x=np.int32([7]),
            y=np.int32([-2]),
        ),
    ],
    "reverse": [
        case(lambda x: mb.reverse(x=x, axes=[0, -1]), x=X),
        case(lambda x: mb.reverse(x=x), x=X),
    ],
    "reverse_sequence": [
        reverse_sequence(0, 1, [0, 1, 3, 2]),
        reverse_sequence(2, 0, [5, 2, 4]),
        reverse_sequence(1, 2, [1, 2, 3, 4, 0]),
    ],
    "rnn": [
        layer("rnn", "forward", sequence=True),
        layer("rnn", "reverse", sequence=True, activation="relu"),
        layer("rnn", "reverse", sequence=False, bias=False, activation="linear"),
    ],
    "scatter": [
        scattered("scatter", np.int32([3, 0, -2]), draw(4, 3, 3), axis=1),
        scattered("scatter", np.int32([2, 0]), draw(4, 5, 2), "iOS17", axis=-1),
    ],
    "scatter_along_axis": [
        scattered(
            "scatter_along_axis", distinct(5, 4, 3, 2).transpose(0, 2, 1), draw(4, 2, 3), axis=1
        ),
        scattered("scatter_along_axis", distinct(3, 4, 5, 2), draw(4, 5, 2), "iOS17", axis=-1),
    ],
    "scatter_nd": [
        scattered("scatter_nd", np.int32([[[0, 4], [-1, -5]]]), draw(1, 2, 3)),
        scattered("scatter_nd", np.int32([[3], [1]]), draw(2, 5, 3), "iOS16"),
        case(
            lambda x, i, u: mb.scatter_nd(data=x, indices=i, updates=u, mode="add"),
            "iOS17",
            x=X,
            # The same positions again and again: sums.
            i=whole(0, 2, 9, 3),
            u=draw(9),
        ),
    ],
    "shape": [case(lambda x: mb.shape(x=mb.non_zero(x=x)), x=np.float32([[0, 1, 0], [2, 0, -3]]))],
    "slice_update": [
        case(
            lambda x, u: mb.slice_update(
                x=x, update=u, begin=[0, -1, 1], end=[3, 0, 5], stride=[2, -2, 3]
            ),
            "iOS18",
            x=X,
            u=draw(2, 2, 2),
        ),
        case(
            lambda x, u, b, e: mb.slice_update(
                x=x,
                update=u,
                begin=b,
                end=e,
                begin_mask=[False, True, False],
                end_mask=[False, True, False],
                squeeze_mask=[True, False, False],
            ),
            "iOS18",
            x=X,
            u=draw(4, 2),
            b=np.int32([-1, 3, 1]),
            e=np.int32([0, 0, 3]),
        ),
    ],
    "stack": [
        case(lambda x: tuple(mb.stack(values=[x, mb.abs(x=x), X], axis=i) for i in (0, 2, -1)), x=X)
    ],
    "tile": [
        case(lambda x: mb.tile(x=x, reps=[2, 1, 3]), x=X),
        case(lambda x, n: mb.tile(x=x, reps=n), x=X, n=np.int32([1, 2, 2])),
    ],
    "topk": [
        on_x("topk", X, k=2, axis=1),
        on_x("topk", X, "iOS16", k=3, axis=-1, ascending=True, return_indices=False),
        on_x("topk", X, "iOS17", k=3, axis=0, sort=False),
        on_x("topk", whole(-2, 2, 5, 4), k=4, axis=0),
    ],
}

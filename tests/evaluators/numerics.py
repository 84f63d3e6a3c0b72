# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: PLW0108 - the functions are called with keywords, which NumPy's ufuncs do not take
"""MIL's arithmetic, comparisons, activations, reductions and normalisations, in NumPy float64.

Written from the documentation of MIL's operations and their folding of constants.
"""

import math

import numpy as np
from scipy import special

__all__ = ["EVALUATORS"]


def gelu(*, x, mode):
    if mode == "TANH_APPROXIMATION":
        return x * special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    if mode == "SIGMOID_APPROXIMATION":
        return x * special.expit(1.702 * x)
    return x * special.ndtr(x)


def softmax(*, x, axis):
    return special.softmax(x, axis=int(axis))


def softplus(x):
    return np.logaddexp(0, x)


def channelwise(parameter, x):
    return np.asarray(parameter).reshape(-1, *[1] * (x.ndim - 2))


def softplus_parametric(*, x, alpha, beta):
    return channelwise(alpha, x) * softplus(channelwise(beta, x) * x)


def reduction(function):
    def evaluator(*, x, keep_dims, axes=None):
        axes = None if axes is None else tuple(int(axis) for axis in axes)
        result = function(x, axis=axes, keepdims=bool(keep_dims))
        # Folding turns the result into the type of x: integers wrap around or are truncated.
        return np.asarray(result).astype(x.dtype)

    return evaluator


def argument(function):
    def evaluator(*, x, axis, keep_dims, output_dtype="int32"):
        return function(x, axis=int(axis), keepdims=bool(keep_dims)).astype(output_dtype)

    return evaluator


def standardized(x, axes, epsilon):
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + epsilon)


def batch_norm(*, x, mean, variance, epsilon, gamma=1.0, beta=0.0):
    mean, variance, gamma, beta = (channelwise(each, x) for each in (mean, variance, gamma, beta))
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def instance_norm(*, x, epsilon, gamma=1.0, beta=0.0):
    gamma, beta = channelwise(gamma, x), channelwise(beta, x)
    return gamma * standardized(x, tuple(range(2, x.ndim)), epsilon) + beta


def layer_norm(*, x, axes, epsilon, gamma=None, beta=None):
    axes = sorted(int(axis) % x.ndim for axis in axes)
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    result = standardized(x, tuple(axes), epsilon)
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


def local_response_norm(*, x, size, alpha, beta, k):
    reach = int(size) // 2
    assert size % 2 == 1
    result = np.empty_like(x)
    for channel in range(x.shape[1]):
        neighbours = x[:, max(0, channel - reach) : channel + reach + 1]
        total = (neighbours**2).sum(axis=1)
        result[:, channel] = x[:, channel] / (k + alpha / int(size) * total) ** beta
    return result


EVALUATORS = {
    "acos": lambda x: np.arccos(x),
    "asin": lambda x: np.arcsin(x),
    "atan": lambda x: np.arctan(x),
    "atanh": lambda x: np.arctanh(x),
    "batch_norm": batch_norm,
    "ceil": lambda x: np.ceil(x),
    "clamped_relu": lambda x, alpha, beta: np.minimum(np.where(x >= 0, x, alpha * x), beta),
    "cos": lambda x: np.cos(x),
    "cosh": lambda x: np.cosh(x),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
    "equal": lambda x, y: x == y,
    "erf": lambda x: special.erf(x),
    "exp2": lambda x: np.exp2(x),
    "floor": lambda x: np.floor(x),
    "floor_div": lambda x, y: np.floor_divide(x, y),
    "gelu": gelu,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "instance_norm": instance_norm,
    "inverse": lambda x, epsilon: 1 / (x + epsilon),
    "l2_norm": lambda x, epsilon: (
        x / np.sqrt((x**2).sum(axis=(-3, -2, -1), keepdims=True) + epsilon)
    ),
    "layer_norm": layer_norm,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "local_response_norm": local_response_norm,
    "log": lambda x, epsilon: np.log(x + epsilon),
    "logical_and": lambda x, y: x & y,
    "logical_not": lambda x: ~x,
    "logical_or": lambda x, y: x | y,
    "logical_xor": lambda x, y: x ^ y,
    "mod": lambda x, y: np.mod(x, y),
    "not_equal": lambda x, y: x != y,
    "pow": lambda x, y: np.power(x, y),
    "reduce_argmax": argument(np.argmax),
    "reduce_argmin": argument(np.argmin),
    "reduce_l1_norm": reduction(lambda x, **options: np.sum(np.abs(x), **options)),
    "reduce_l2_norm": reduction(lambda x, **options: np.sqrt(np.sum(x * x, **options))),
    "reduce_log_sum": reduction(lambda x, **options: np.log(np.sum(x, **options))),
    "reduce_log_sum_exp": reduction(lambda x, **options: special.logsumexp(x, **options)),
    "reduce_max": reduction(np.max),
    "reduce_mean": reduction(np.mean),
    "reduce_min": reduction(np.min),
    "reduce_prod": reduction(np.prod),
    "reduce_sum": reduction(np.sum),
    "reduce_sum_square": reduction(lambda x, **options: np.sum(x * x, **options)),
    "round": lambda x: np.round(x),
    "rsqrt": lambda x, epsilon: 1 / np.sqrt(x + epsilon),
    "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "select": lambda cond, a, b: np.where(cond, a, b),
    "sigmoid_hard": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "sign": lambda x: np.sign(x),
    "sin": lambda x: np.sin(x),
    "sinh": lambda x: np.sinh(x),
    "softmax": softmax,
    "softplus": lambda x: softplus(x),
    "softplus_parametric": softplus_parametric,
    "tan": lambda x: np.tan(x),
    "thresholded_relu": lambda x, alpha: np.where(x < alpha, 0, x),
    "threshold": lambda x, alpha: np.maximum(x, alpha),
}

# SPDX-License-Identifier: BSD-3-Clause
"""A worker process whose model does what the name of its package says."""

import os
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
from PIL import Image

from convcal.coreml.prediction import run_worker


def crash(inputs):
    sys.stderr.write("the last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(inputs):
    os._exit(7)


def hang(inputs):
    time.sleep(600)


def babble(inputs):
    while True:
        os.write(2, b"busy\n")


def fail(inputs):
    raise RuntimeError("the framework says no")


def chatter(inputs):
    os.write(1, b"progress: 50 %\n" * 10_000)
    sys.stderr.write("noise\n" * 10_000)
    return inputs


def farewell(inputs):
    """End the process after the answer, when nobody asks."""
    threading.Timer(0.2, os._exit, [7]).start()
    return inputs


def echo(inputs):
    return inputs


def stride(inputs):
    """Give rows that are padded in memory, in both dtypes, and a scalar."""
    padded = np.zeros((*inputs["x"].shape[:-1], 64), np.float16)
    rows = padded[..., : inputs["x"].shape[-1]]
    rows[...] = inputs["x"]
    return {"y": rows, "z": np.asfortranarray(inputs["x"]), "scalar": 2.5}


def ones(inputs):
    """Give an array of length 1, as Core ML gives scalars."""
    return {"y": np.ones(1, np.float32)}


def picture(inputs):
    """Turn a picture upside down, with an alpha channel, as Core ML gives it."""
    (image,) = inputs.values()
    flipped = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if image.mode == "RGB":
        flipped.putalpha(0)
    return {"picture": flipped, "mode": np.frombuffer(image.mode.encode(), np.uint8)}


def text(inputs):
    return {"y": "cat"}


def table(inputs):
    """Give a classifier's label and table, in another order than that of its classes."""
    return {
        "classLabel": "dog",
        "classLabel_probs": {"owl": 0.125, "dog": 0.75, "cat": 0.125, 2: 0.125, 1: 0.75, 3: 0.125},
    }


def names(inputs):
    """Say by ones whether there was an input ``x``."""
    return {"y": np.full((1, 3, 4), "x" in inputs, np.float32)}


class Model:
    """Predicts by a function; a state counts the predictions that are made with it."""

    def __init__(self, name):
        self.name, self.states = name, weakref.WeakSet()

    def make_state(self):
        self.states.add(state := Count())
        return state

    def predict(self, inputs, state=None):
        if state is None:
            return globals()[self.name](inputs)
        state.value += 1
        y = np.full((1, 3, 4), state.value, np.float32)
        y[0, 0, 1] = len(self.states)
        return {"y": y}


class Count:
    value = 0


def load(package, compute_units, function):
    name = Path(package).stem
    if name == "unloadable":
        raise ValueError(f"cannot compile for {compute_units}")
    return Model(name if function is None else function)


if __name__ == "__main__":
    run_worker(load)

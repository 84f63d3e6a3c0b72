# SPDX-License-Identifier: BSD-3-Clause
"""A runner over a plain function, as a user would write one for another framework."""

from convcal.model_description import Feature, ModelDescription


class FakeRunner:
    """Run `function(array) -> array` as a model with an input ``x`` and an output ``y``."""

    def __init__(
        self, function, *, shape, output_shape=None, dtype="float32", kind="tensor", **provenance
    ):
        self.function = function
        self.dtype = dtype
        self.provenance = provenance
        self.description = ModelDescription(
            inputs=(Feature("x", "tensor", shape, "float32"),),
            outputs=(Feature("y", kind, output_shape or shape, dtype),),
        )
        self.is_closed = False

    def run(self, sample):
        return {"y": self.function(sample["x"]).astype(self.dtype)}

    def close(self):
        self.is_closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

# SPDX-License-Identifier: BSD-3-Clause
"""How much memory a program of many weights takes, and what holds it."""

import errno
import os
import sys

import numpy as np
import pytest
from programs import make_package, mb

from convcal.coreml.program import load_program
from convcal.errors import WriteError
from convcal.runtime.reference import ReferenceRunner
from convcal.runtime.translation.model import Model


def make_large_package():
    """Make one whose constants go through a file."""
    weight = np.ones((64, 64, 9, 9), np.float32)
    return make_package(lambda x: mb.conv(x=x, weight=weight), x=(1, 64, 9, 9))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts the peak")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_peak_is_at_most_one_and_a_half_times_the_weights(precision):
    from runtime import peak_memory

    # Of weights this small, what the process takes otherwise is a tenth.
    assert peak_memory("pictures", precision, 60) < 1.5


def test_constants_are_views_of_the_weight_file():
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    package = make_package(lambda x: mb.conv(x=x, weight=weight), x=(1, 16, 5, 5))
    (operation,) = load_program(package).operations
    constant = operation.constant("weight")
    np.testing.assert_array_equal(constant, weight)
    # A change of the file shows.
    content = package.weights_path.read_bytes()
    with package.weights_path.open("r+b") as file:
        file.seek(content.index(weight.tobytes()))
        file.write(np.float32(7).tobytes())
    assert constant[0, 0, 0, 0] == 7


def test_nothing_is_left_of_the_files_that_the_runtime_writes(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    package = make_large_package()
    before = set(tmp_path.iterdir())
    with ReferenceRunner(package) as runner:
        assert set(tmp_path.iterdir()) == before
        (result,) = runner.run({"x": np.ones((1, 64, 9, 9), np.float32)}).values()
    np.testing.assert_array_equal(result, np.full((1, 64, 1, 1), 64 * 81))


def test_a_full_disk_is_named(monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Model, "save", refused)
    package = make_large_package()
    with pytest.raises(WriteError, match=r"program\.mlpackage.*No space left on device.*TMPDIR"):
        ReferenceRunner(package)


def test_dense_forms_of_compressed_weights_are_spilled_to_a_file():
    data = np.random.default_rng(0).integers(-100, 100, (600, 512)).astype(np.int8)

    def build(x):
        dense = mb.constexpr_affine_dequantize(
            quantized_data=data, zero_point=np.int8(3), scale=np.float32(0.5), axis=0
        )
        return mb.linear(x=x, weight=dense)

    package = make_package(build, x=(1, 512))
    value = load_program(package).operations[-1].tensor("weight")
    np.testing.assert_array_equal(value.constant, (data.astype(np.float32) - 3) / 2)
    base = value.constant
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert not base.flags.owndata

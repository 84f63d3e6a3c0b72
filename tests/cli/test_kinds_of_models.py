# SPDX-License-Identifier: BSD-3-Clause
"""Models with states, functions, flexible shapes and classes, from the command line."""

import numpy as np
import pytest
from coreml.models import save_functions, save_package
from programs import State, ct, get_new_symbol, make_package, mb, save


def test_a_model_with_states_begins_every_sample_with_new_ones(convcal, folder):
    def build(x, total):
        new = mb.add(x=mb.read_state(input=total), y=x)
        return mb.identity(x=mb.coreml_update_state(state=total, value=new), name="y")

    package = make_package(build, target="iOS18", x=((1, 2), "float16"), total=State((1, 2)))
    save(package, folder / "m.mlpackage")
    x = np.float16([[[1, 2]], [[3, 4]]])
    np.savez(folder / "data.npz", x=x)
    words = ("run", "m.mlpackage", "--data", "data.npz", "--outputs", "y", "total", "-o", "o.npz")
    assert convcal(*words).code == 0
    with np.load(folder / "o.npz") as file:
        for index, sample in enumerate(x):
            np.testing.assert_array_equal(file[f"data[{index}]/y"], sample)
            np.testing.assert_array_equal(file[f"data[{index}]/total"], sample)


@pytest.fixture
def functions(folder):
    """A package whose functions differ in their inputs."""
    parts = {
        name: save_package(
            folder / f"{name}.mlpackage",
            lambda mb, x: mb.relu(x=x, name="y"),
            shape=(1, length),
            target="iOS18",
        )
        for name, length in (("small", 2), ("large", 3))
    }
    return save_functions(folder / "both.mlpackage", parts)


def test_a_function_is_chosen_by_name_in_every_verb_that_runs_models(convcal, refused, functions):
    np.savez("data.npz", x=np.ones((8, 1, 3), np.float32))
    how = ("--function", "large", "--data", "data.npz")
    ran = convcal("run", functions, *how, "-o", "o.npz", "--json").document
    assert ran["result"]["provenance"]["function"] == "large"
    assert ran["result"]["outputs"] == {"y": "float32 1x3"}
    captured = convcal("capture", functions, "--role", "observed", *how, "-o", "c", "--json")
    assert captured.document["result"]["provenance"]["observed"]["function"] == "large"
    checked = convcal("check", functions, functions, *how, "--json").document
    assert checked["result"]["provenance"]["reference"]["function"] == "large"
    assert convcal("fit", functions, functions, *how, "-o", "net.json").code in (0, 1)
    wrong = ("--function", "huge", "--data", "data.npz", "-o", "other.npz")
    refused("run", functions, *wrong, names=("no function 'huge'", "['large', 'small']"))
    refused(
        *("capture", "--import", "o.npz", "--role", "observed", "-o", "d", "--function", "large"),
        names=("--function",),
    )


def test_a_flexible_model_runs_at_every_size_and_says_which_it_does_not_take(
    convcal, refused, folder
):
    length = ct.RangeDim(2, 9, default=4)
    save_package(
        folder / "m.mlpackage",
        lambda mb, x: mb.relu(x=x, name="y"),
        shape=(1, 1, get_new_symbol()),
        inputs=[ct.TensorType("x", ct.Shape((1, 1, length)))],
        target="iOS16",
    )
    lengths = {"a": 2, "b": 9, "c": 5, "d": 2, "e": 7}
    sizes = {f"{name}/x": np.ones((1, 1, n), np.float32) for name, n in lengths.items()}
    np.savez(folder / "data.npz", **sizes)
    result = convcal("run", "m.mlpackage", "--data", "data.npz", "-o", "o.npz")
    assert result.code == 0
    assert "y: float32 1x1x2, 1x1x9, 1x1x5, …" in result.out
    np.savez(folder / "bad.npz", **{"a/x": np.ones((1, 1, 10), np.float32)})
    refused(
        *("run", "m.mlpackage", "--data", "bad.npz", "-o", "other.npz"),
        names=("(1, 1, 10)", "has shape (1, 1, 2 to 9)"),
    )


def test_a_classifier_gives_its_probabilities_and_names_its_label_as_what_it_is(
    convcal, refused, folder
):
    save_package(
        folder / "m.mlpackage",
        lambda mb, x: mb.softmax(x=x, axis=1, name="scores"),
        shape=(1, 3),
        classifier_config=ct.ClassifierConfig(["cat", "dog", "owl"]),
    )
    np.savez(folder / "data.npz", x=np.zeros((1, 3), np.float32))
    result = convcal("run", "m.mlpackage", "--data", "data.npz", "-o", "o.npz")
    assert "classLabel_probs: float32 3" in result.out
    refused(
        *("run", "m.mlpackage", "--data", "data.npz", "--outputs", "classLabel", "-o", "p.npz"),
        names=("'classLabel'", "of type string"),
    )

# SPDX-License-Identifier: BSD-3-Clause
"""What a record of a run says of the package that ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convcal.coreml.describe import default_function, tensor_dtype
from convcal.coreml.patch import PATCH_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from convcal.coreml.package import Package

__all__ = ["package_provenance"]


def package_provenance(package: Package) -> dict[str, str]:
    """Give the name of a package, the hash of its content, and what it computes in.

    Parameters
    ----------
    package : Package
        Which holds an ML Program.

    Returns
    -------
    dict of str to str
        ``'package'``, ``'sha256'``, and ``'precision'``: ``'float16'`` where any operation that
        computes gives fp16, otherwise ``'float32'``. With ``'corrected'`` where convcal has
        built a correction into it.
    """
    entries = {
        "package": package.path.name,
        "sha256": package.sha256,
        "precision": "float16" if _computes_in_fp16(package) else "float32",
    }
    if package.spec.description.metadata.userDefined.get(PATCH_KEY, ""):
        entries["corrected"] = "by convcal"
    return entries


def _computes_in_fp16(package: Package) -> bool:
    function = package.spec.mlProgram.functions[default_function(package)]
    return any(
        tensor_dtype(value.type) == "float16"
        for operation in _operations(function.block_specializations[function.opset])
        # Casts stand at the inputs and outputs of any network, constants may be stored in fp16.
        if operation.type not in ("cast", "const") and not operation.type.startswith("constexpr")
        for value in operation.outputs
    )


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)

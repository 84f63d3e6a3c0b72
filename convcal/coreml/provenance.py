# SPDX-License-Identifier: BSD-3-Clause
"""What a record of a run says of the package that ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convcal.coreml.blocks import walk_blocks
from convcal.coreml.describe import default_function, tensor_dtype
from convcal.coreml.patch import PATCH_KEY

if TYPE_CHECKING:
    from typing import Any

    from convcal.coreml.package import Package

__all__ = ["package_provenance"]


def package_provenance(package: Package, *, function: str | None = None) -> dict[str, str]:
    """Give the name of a package, the hash of its content, and what it computes in.

    Parameters
    ----------
    package : Package
        Which holds an ML Program.
    function : str, optional
        Which of its functions runs; by default the package's default.

    Returns
    -------
    dict of str to str
        ``'package'``, ``'sha256'``, and ``'precision'``: ``'float16'`` where any operation that
        computes gives fp16, otherwise ``'float32'``. With ``'function'`` where the package has
        several, and ``'corrected'`` where convcal has built a correction into it.
    """
    functions = package.spec.mlProgram.functions
    name = default_function(package) if function is None else function
    entries = {
        "package": package.path.name,
        "sha256": package.sha256,
        "precision": "float16" if _computes_in_fp16(functions[name]) else "float32",
    }
    if len(functions) > 1:
        entries["function"] = name
    if package.spec.description.metadata.userDefined.get(PATCH_KEY, ""):
        entries["corrected"] = "by convcal"
    return entries


def _computes_in_fp16(function: Any) -> bool:
    return any(
        tensor_dtype(value.type) == "float16"
        for block in walk_blocks(function.block_specializations[function.opset])
        for operation in block.operations
        # Casts stand at the inputs and outputs of any network, constants may be stored in fp16.
        if operation.type not in ("cast", "const") and not operation.type.startswith("constexpr")
        for value in operation.outputs
    )

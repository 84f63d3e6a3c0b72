# SPDX-License-Identifier: BSD-3-Clause
"""Say, operation by operation, what the reference runtime does and what it is tested against.

    python benchmarks/operations.py                # print the page
    python benchmarks/operations.py --write-docs   # write docs/operations.md

The operations are those of coremltools' registry, iOS15 to iOS18. What is said about them is read
off the code and the tests: the docstring of the translation, the messages of its refusals, the
evaluator in the tests, ONNX's node cases as the tests pick them, the golden outputs of PyTorch,
and the tests that compare with values they state themselves.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import re
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import evaluator  # noqa: E402 - a module of the tests
import goldens  # noqa: E402
from programs import ct, make_package  # noqa: E402

from convcal.coreml.package import Package, read_package  # noqa: E402
from convcal.coreml.program import list_operations  # noqa: E402
from convcal.runtime import translation  # noqa: E402
from convcal.runtime.translation import OPERATIONS  # noqa: E402

DOCS = ROOT / "docs" / "operations.md"
VERSIONS = ("iOS15", "iOS16", "iOS17", "iOS18")
# A refusal that more operations share is said once, for all.
SHARED = 8
# Refusals of what is no program of MIL.
INVALID = ("not one of MIL's", " is missing", "does not fit what is normalised")
# Tests that call one of these, directly or not, compare with something else than stated values.
COMPARISONS = {"assert_agrees", "assert_rounded_once", "evaluate", "raises"}

INTRODUCTION = """\
# Operations of the reference runtime

What the program types fp16 is rounded to fp16 after every operation; sums within an operation are
fp32. Where MIL's documentation leaves something open, or a result deviates from it, that is said
beside the operation. What is refused is refused by name before anything runs, with the reason, all
of it at once. So is what MIL does not have: modes that it does not know, parameters that lack.

The first target is where the operation begins, others are where MIL defines it anew.

Tested against:

- **values**: results that the tests state themselves, from a formula, a symmetry or an example.
- **evaluator**: NumPy in float64, written for the tests after MIL's documentation, one function
  per operation.
- **ONNX**: the node cases of ONNX, whose expected results its authors computed with NumPy.
- **PyTorch**: packages that coremltools made of PyTorch modules, against what PyTorch computes in
  float64 (`tests/golden/pytorch.py`).

Written by `python benchmarks/operations.py --write-docs`, from the code and the tests.
"""


def registry() -> dict[str, list[str]]:
    """Give each operation of MIL, with the targets in which its definition is a new one."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry  # noqa: TID251

    found: dict[str, list[str]] = {}
    for name, classes in SSAOpRegistry.core_ops.items():
        if name in ("const", "_const_symbolic"):
            continue
        known = [(v, classes.get(getattr(ct.target, v))) for v in VERSIONS]
        known = [(version, each) for version, each in known if each is not None]
        earlier: list[Any] = [None, *(each for _, each in known)]
        new = [v for (v, each), before in zip(known, earlier, strict=False) if each is not before]
        if new:
            found[name] = new
    # What coremltools reads `write_state` as has no target.
    return found | {name: [] for name in OPERATIONS if name not in found}


def sections() -> list[tuple[ModuleType, dict[str, Callable[..., list[str]]]]]:
    """Give the modules that translate, each with its operations."""
    names = sorted(each.name for each in pkgutil.iter_modules(translation.__path__))
    modules = [importlib.import_module(f"{translation.__name__}.{name}") for name in names]
    # The translator has the table of all.
    return [
        (module, module.OPERATIONS)
        for module in modules
        if getattr(module, "OPERATIONS", OPERATIONS) is not OPERATIONS
    ]


def prose(docstring: str) -> str:
    """Give a docstring in Markdown, without numpydoc's sections."""
    text = re.split(r"\n[A-Z]\w+\n-{3,}\n", inspect.cleandoc(docstring))[0].strip()
    return text.replace("``", "`")


def note(function: Callable[..., list[str]]) -> str:
    """Give what the docstring of a translation says beyond the operation's name."""
    if isinstance(function, functools.partial):
        return ""
    text = " ".join(prose(inspect.getdoc(function) or "").split())
    return re.sub(r"^Translate `\w+`( and its kin)?[,:;.]?\s*", "", text)


def called(function: FunctionType) -> Iterator[FunctionType]:
    """Give a function and all functions of the translations that it may call."""
    seen: set[FunctionType] = set()
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        yield each
        for name in names_in(each.__code__):
            other = each.__globals__.get(name)
            other = other.func if isinstance(other, functools.partial) else other
            is_ours = inspect.isfunction(other) and other.__module__.startswith("convcal")
            if is_ours:
                waiting.append(other)


def names_in(code: CodeType) -> Iterator[str]:
    """Give the names that a function refers to, and those within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def refusals(function: Callable[..., list[str]]) -> list[str]:
    """Give the messages with which a translation refuses a use, its values left out."""
    whole = function.func if isinstance(function, functools.partial) else function
    found = []
    for each in called(whole):
        tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        for call in ast.walk(tree):
            is_refusal = (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == "UnsupportedModelError"
            )
            if is_refusal:
                found.append(message(call.args[0]))
    return sorted({each for each in found if not any(part in each for part in INVALID)})


def message(node: ast.expr) -> str:
    """Give the text of a message, with dots for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def kinds_in(package: Package) -> set[str]:
    """Give the types of a program's operations."""
    return {kind for kind, _ in list_operations(package)} - {"const"}


def in_goldens() -> set[str]:
    """Give the operations of the packages that PyTorch's outputs are there for."""
    found: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for name in goldens.GOLDENS:
            path, _ = goldens.load(name, pathlib.Path(folder))
            found |= kinds_in(read_package(path))
    return found


def in_node_cases() -> set[str]:
    """Give the operations for which the tests have a node case of ONNX."""
    first, second = (test_module(f"test_onnx_{name}") for name in ("cases", "layer_cases"))
    found: set[str] = set()
    for case in {first.kind_of(each): each for each in first.CASES.values()}.values():
        found |= kinds_in(first.package_of(case))
    for build, x, _ in second.node_cases().values():
        found |= kinds_in(make_package(build, x=x.shape, target="iOS17"))
    return found - {"cast"}


def test_module(name: str) -> ModuleType:
    """Import a file of tests."""
    path = ROOT / "tests" / "runtime" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        msg = f"{path} cannot be imported"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_stated_values(known: set[str]) -> set[str]:
    """Give the operations that occur in tests which state the values that they expect."""
    found: set[str] = set()
    for path in sorted((ROOT / "tests" / "runtime").glob("test_*.py")):
        if any(word in path.stem for word in ("golden", "onnx", "fault", "network", "section")):
            continue  # counted by themselves, or about something else than operations
        tops: dict[str, ast.stmt] = {}
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                tops[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                tops[node.targets[0].id] = node
        for name in tops:
            if name.startswith("test_"):
                names, kinds = mentioned(name, tops)
                if "run" in names and not names & COMPARISONS:
                    found |= kinds & known
    return found


def mentioned(start: str, tops: dict[str, ast.stmt]) -> tuple[set[str], set[str]]:
    """Give the names that a test uses, directly or not, and its attributes of `mb` and strings."""
    names, kinds, waiting = set(), set(), [start]
    while waiting:
        name = waiting.pop()
        for node in ast.walk(tops[name]):
            if isinstance(node, ast.Name) and node.id not in names:
                names.add(node.id)
                if node.id in tops and node.id != start:
                    waiting.append(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
                if isinstance(node.value, ast.Name) and node.value.id == "mb":
                    kinds.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                kinds.add(node.value)
    return names, kinds


def cell(text: str) -> str:
    """Give text as it stands in a table."""
    return text.replace("|", "\\|")


def page() -> str:
    """Write the page."""
    known = registry()
    tested = {
        "values": with_stated_values(set(known)),
        "evaluator": set(evaluator.EVALUATORS),
        "ONNX": in_node_cases(),
        "PyTorch": in_goldens(),
    }
    parts = sections()
    refused = {name: refusals(each) for _, table in parts for name, each in table.items()}
    counts = Counter(reason for reasons in refused.values() for reason in reasons)
    shared = sorted(reason for reason, count in counts.items() if count > SHARED)

    def truths(name: str) -> str:
        return ", ".join(kind for kind, names in tested.items() if name in names)

    lines = [INTRODUCTION, "Refused wherever it occurs:\n"]
    lines += [f"- {reason}" for reason in shared]
    states: Counter[str] = Counter()
    for module, table in parts:
        heading, _, text = prose(module.__doc__ or "").partition("\n")
        lines += ["", f"## {heading.rstrip('.')}", "", *([text.strip(), ""] if text else [])]
        lines += ["| operation | targets | supported | tested against | in words | refused uses |"]
        lines += ["|---|---|---|---|---|---|"]
        for name in sorted(set(table) & set(known)):
            own = [reason for reason in refused[name] if reason not in shared]
            state = "with exceptions" if own else "yes"
            states[state] += 1
            columns = (
                f"`{name}`",
                ", ".join(known[name]),
                state,
                truths(name),
                note(table[name]),
                "; ".join(own),
            )
            lines.append("| " + " | ".join(cell(each) for each in columns) + " |")
    constants = sorted(name for name in known if name.startswith("constexpr_"))
    lines += ["", "## Compressed weights", ""]
    lines += ["Decompressed once, as the package is read; what is left is a constant.", ""]
    lines += ["| operation | targets | tested against |", "|---|---|---|"]
    lines += [f"| `{n}` | {', '.join(known[n])} | {truths(n)} |" for n in constants]
    translated = {name for _, table in parts for name in table}
    absent = sorted(set(known) - translated - set(constants))
    lines += ["", "## Refused", "", "There is no translation of these, whatever their use:", ""]
    lines += [", ".join(f"`{name}`" for name in absent) + "."]
    n_whole, n_limited = states["yes"] + len(constants), states["with exceptions"]
    counted = (
        f"Of {len(known)} operations {n_whole} are supported, {n_limited} with exceptions, and "
        f"{len(absent)} refused."
    )
    lines.insert(1, counted + "\n")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write-docs", action="store_true", help="write docs/operations.md")
    if parser.parse_args().write_docs:
        DOCS.write_text(page(), "utf-8")
        print(f"wrote {DOCS}")
    else:
        print(page())


if __name__ == "__main__":
    main()

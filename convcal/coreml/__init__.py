# SPDX-License-Identifier: BSD-3-Clause
"""Read, describe and patch Core ML packages; the only part of convcal that imports coremltools.

Importing this package is cheap: coremltools is loaded when a package is first read.
"""

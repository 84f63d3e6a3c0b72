# SPDX-License-Identifier: BSD-3-Clause
"""Make the outputs of an fp16 Core ML model right again."""

__version__ = "0.1.0"

# SPDX-License-Identifier: BSD-3-Clause
"""Ship a calibration: as Python source, or as a corrected Core ML package."""

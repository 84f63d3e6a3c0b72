# SPDX-License-Identifier: BSD-3-Clause
"""A small real calibration set, two trained networks, and the scripts that made them."""

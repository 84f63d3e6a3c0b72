# SPDX-License-Identifier: BSD-3-Clause
"""Calibration sets and captures: samples from files, and recorded outputs on disk."""

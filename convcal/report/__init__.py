# SPDX-License-Identifier: BSD-3-Clause
"""What was found, for people to read."""

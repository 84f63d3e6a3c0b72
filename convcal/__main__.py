# SPDX-License-Identifier: BSD-3-Clause
"""``python -m convcal``, where the script ``convcal`` is not on the path."""

import sys

from convcal.cli import main

sys.exit(main())

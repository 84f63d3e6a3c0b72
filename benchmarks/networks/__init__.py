# SPDX-License-Identifier: BSD-3-Clause
"""Networks of the kinds that people convert, with seeded weights, as ML Programs.

Made with coremltools' MIL builder and converted as `coremltools.convert` does it by default, in
fp32 and in fp16. They are small enough to run in a few milliseconds, and their weights are drawn
so that activations neither vanish nor blow up.
"""

from networks.network import NETWORKS, PRECISIONS, Network, convert

__all__ = ["NETWORKS", "PRECISIONS", "Network", "convert"]

"""What is fuzzed. Each module has ``fuzz(data)``, which raises where the program is at fault, and ``seeds()``, good
inputs to start from. Names are those of ``TARGETS``."""

from __future__ import annotations

from typing import Final

TARGETS: Final = (
    "decoders",
    "vl1_leaf",
    "vl1_root",
    "vl2_member",
    "vl2_controller",
    "controller",
    "stack",
    "control_channel",
    "ring",
    "lane",
    "proxy",
)

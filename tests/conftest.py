"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# The machine is shared and timings are no property of a codec; the limit on a whole test is pytest-timeout's.
settings.register_profile("ztnode", deadline=None)
settings.load_profile("ztnode")

"""``python -m ztnode`` is ``ztnode``."""

from ztnode.cli import main

main()

"""Generated from proto/ztnode/v1 by `python proto/generate.py`; do not edit the other files here by hand."""

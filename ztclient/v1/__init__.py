"""Stubs of the protocol in proto/ztnode/v1, made by ``python proto/generate.py``."""

"""ztnode: a real ZeroTier node in pure Python."""

__version__ = "0.2.0"

"""ztnode: a real ZeroTier node in pure Python."""

__version__ = "0.1.0"

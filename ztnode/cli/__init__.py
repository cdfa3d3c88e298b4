"""The command line, `ztnode`."""

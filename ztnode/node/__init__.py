"""The node process: event loop, sockets, timers, supervision. Glue alone."""

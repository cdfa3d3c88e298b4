"""The stack worker process: ring, netstack and client sockets joined. Glue alone."""

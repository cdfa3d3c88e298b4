"""gRPC services over the node's public objects. ``server.ControlServer`` is where to begin."""

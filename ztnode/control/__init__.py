"""gRPC services over the node's public objects."""

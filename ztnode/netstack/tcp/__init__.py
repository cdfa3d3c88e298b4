"""TCP of the user-space stack (RFC 9293), sans-IO: one small module per concern, `layer.TcpLayer` on top."""

"""Datagrams of UDP sockets by the batch, both ways: what the transport and the lanes of a worker stand on."""

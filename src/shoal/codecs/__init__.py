"""Bytes to tensors and back. Knows protocols, never sockets, models or the registry."""

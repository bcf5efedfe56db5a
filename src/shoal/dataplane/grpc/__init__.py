"""The inference protocol over gRPC. Knows nothing of HTTP/1.1, nor of HTTP/2's frames."""

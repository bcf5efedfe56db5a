"""What Shoal is compared with: the least code that answers, and gRPC's own Python server."""

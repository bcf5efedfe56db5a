"""Several processes that serve on the same ports: who starts, watches and replaces them."""

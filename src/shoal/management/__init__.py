"""The operators' side: the management API, health, metrics and a page, on a port of its own."""

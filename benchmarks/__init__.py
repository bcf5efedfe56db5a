"""Measurements that anyone can repeat: `python -m benchmarks NAME`, or `make bench NAME=…`."""

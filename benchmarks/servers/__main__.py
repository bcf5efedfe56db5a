"""Starts one of these servers: `python -m benchmarks.servers --serve KIND`; prints its port."""

from __future__ import annotations

import argparse
import importlib

KINDS = {
    "bare-http": "benchmarks.servers.bare_http",
    "bare-grpc": "benchmarks.servers.bare_grpc",
    "grpcio-sync": "benchmarks.servers.grpcio_sync",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=KINDS, required=True)
    importlib.import_module(KINDS[parser.parse_args().serve]).serve()


if __name__ == "__main__":
    main()

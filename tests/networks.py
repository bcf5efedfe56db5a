"""Hosts with networks of their own on one machine, which tests part from each other.

Linux network namespaces on a bridge. Whoever may not make them skips.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import pytest


@dataclass(frozen=True)
class Host:
    """prefix: of commands that are to run there."""

    address: str
    prefix: tuple[str, ...]


class Networks:
    """`host`: where this process can be reached by the others. Use as a context."""

    def __init__(self) -> None:
        self._tag = f"sh{os.getpid() % 100_000}"
        self._subnet = f"10.{os.getpid() // 250 % 250}.{os.getpid() % 250}"
        self.host = f"{self._subnet}.1"
        self._ports: dict[str, str] = {}
        self._leaving = ExitStack()

    @classmethod
    def or_skip(cls) -> Self:
        """Skips the test where they cannot be made."""
        if shutil.which("ip") is None or shutil.which("bridge") is None:
            pytest.skip("needs the commands `ip` and `bridge` (iproute2)")
        if os.geteuid() != 0:
            pytest.skip("needs to be root, to make network namespaces")
        made = cls()
        try:
            made._make()
        except subprocess.CalledProcessError as error:
            made._leaving.close()
            pytest.skip(f"this system makes no network namespaces: {error.stderr.strip()}")
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._leaving.close()

    def add(self, name: str) -> Host:
        """Another host. name: short."""
        space = f"{self._tag}{name}"
        port, inner = f"{self._tag}{name}p", f"{self._tag}{name}i"
        address = f"{self._subnet}.{len(self._ports) + 2}"
        self._add_space(space)
        _ip("link", "add", port, "type", "veth", "peer", "name", inner, "netns", space)
        _ip("link", "set", port, "master", self._tag, "up")
        _ip("-n", space, "address", "add", f"{address}/24", "dev", inner)
        _ip("-n", space, "link", "set", inner, "up")
        _ip("-n", space, "link", "set", "lo", "up")
        self._ports[name] = port
        return Host(address, ("ip", "netns", "exec", space))

    def part(self, *names: str) -> None:
        """Nothing passes between these any more; what is on its way is lost."""
        self._isolate(names, "on")

    def heal(self) -> None:
        self._isolate(tuple(self._ports), "off")

    def _isolate(self, names: tuple[str, ...], how: str) -> None:
        for name in names:
            _run("bridge", "link", "set", "dev", self._ports[name], "isolated", how)

    def _make(self) -> None:
        self._add_space(f"{self._tag}probe")
        _ip("link", "add", self._tag, "type", "bridge")
        self._leaving.callback(_ip, "link", "delete", self._tag)
        _ip("address", "add", f"{self.host}/24", "dev", self._tag)
        _ip("link", "set", self._tag, "up")

    def _add_space(self, name: str) -> None:
        _ip("netns", "add", name)
        self._leaving.callback(_ip, "netns", "delete", name)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)

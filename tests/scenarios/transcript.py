"""Plays a scenario: lines of what happens, each followed by what the core commands.

A scenario file holds comments (`#`), blank lines, and blocks: one line that says what happens, then
the commands that follow from it, each after `  -> `. The words are explained at their functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain.model import ModelRecord, ModelSpec, Revision, make_revision

ARROW = "  -> "


class Player:
    """The core in a scenario. Revisions are called `model@version/content`."""

    def __init__(self) -> None:
        self.records: dict[str, ModelRecord] = {}
        self.core = Core(Options(budget_bytes=1000, fill_share=1.0), self.records.get)
        self.now = 0.0
        self.ids: dict[str, str] = {}  # by label
        self.labels: dict[str, str] = {}  # by id

    def play(self, script: str) -> str:
        """The script with the commands that really came."""
        played = []
        for line in script.splitlines():
            if line.startswith(ARROW):
                continue
            played.append(line)
            if line.strip() and not line.startswith("#"):
                played += [ARROW + said for said in self.say(line)]
        return "\n".join(played) + "\n"

    def say(self, line: str) -> list[str]:
        word, *arguments = line.split()
        act: Callable[..., on.Event | None] = getattr(self, "on_" + word)
        event = act(*arguments)
        if event is None:
            return []
        commands = self.core.handle(event, self.now)
        self.core.check_invariants()
        return [self.describe(command) for command in commands]

    # --- what happens ---------------------------------------------------------------------------

    def on_options(self, *pairs: str) -> None:
        """options name=value…: of the core, before anything else."""
        given: dict[str, Any] = {"budget_bytes": 1000, "fill_share": 1.0}
        for pair in pairs:
            name, value = pair.split("=")
            given[name] = value if name == "eviction" else msgspec.json.decode(value)
        self.core = Core(Options(**given), self.records.get)

    def on_declare(self, name: str, *words: str) -> on.Event:
        """declare NAME VERSION/CONTENT:BYTES[@URI]… [pin] [priority=N] [ttl=S] [memory=BYTES]"""
        options = {word.split("=")[0]: word.split("=")[1] for word in words if "=" in word}
        spec = ModelSpec(
            name=name, uri=f"/{name}", pin="pin" in words,
            priority=int(options.get("priority", 0)),
            idle_ttl_s=float(options["ttl"]) if "ttl" in options else None,
            memory_bytes=int(options["memory"]) if "memory" in options else None,
        )
        revisions = tuple(self.revision(spec, word) for word in words if "/" in word)
        self.records[name] = ModelRecord(name=name, spec=spec, revisions=revisions)
        return on.ModelDeclared(self.records[name])

    def revision(self, spec: ModelSpec, word: str) -> Revision:
        what, _, uri = word.partition("@")
        version_content, _, size = what.partition(":")
        version, _, content = version_content.partition("/")
        revision = make_revision(
            spec, version=int(version), uri=uri or f"/{spec.name}/{version}", format="onnx",
            artifact_digest=f"{spec.name}/{content}", files_bytes=int(size),
        )
        self.core.handle(on.SizeRemembered(revision.artifact_digest, int(size)), self.now)
        label = f"{spec.name}@{version}/{content}"
        self.ids[label], self.labels[revision.id] = revision.id, label
        return revision

    def on_remove(self, name: str) -> on.Event:
        del self.records[name]
        return on.ModelRemoved(name)

    def on_request(self, ticket: str, name: str, version: str | None = None) -> on.Event:
        """request TICKET NAME [VERSION]: a request found no ready copy"""
        return on.CopyRequested(int(ticket), name, int(version) if version else None)

    def on_load(self, ticket: str, name: str, version: str | None = None) -> on.Event:
        """load TICKET NAME [VERSION]: by hand"""
        return on.LoadAsked(int(ticket), name, int(version) if version else None)

    def on_unload(self, ticket: str, name: str, version: str | None = None) -> on.Event:
        return on.UnloadAsked(int(ticket), name, int(version) if version else None)

    def on_abandon(self, ticket: str) -> on.Event:
        return on.TicketAbandoned(int(ticket))

    def on_fill(self, *names: str) -> on.Event:
        return on.FillOffered(names)

    def on_loaded(self, label: str, size: str, took_s: str = "0.1", peak: str = "") -> on.Event:
        """loaded REVISION BYTES [SECONDS [PEAK]]"""
        peak_bytes = int(peak) if peak else None
        return on.CopyLoaded(self.ids[label], int(size), float(took_s), peak_bytes)

    def on_coming(self, label: str) -> on.Event:
        """coming REVISION: its files come from elsewhere"""
        return on.FilesComing(self.ids[label])

    def on_came(self, label: str) -> on.Event:
        return on.FilesCame(self.ids[label])

    def on_failed(self, label: str, *message: str) -> on.Event:
        return on.CopyLoadFailed(self.ids[label], "INVALID_ARTIFACT", " ".join(message))

    def on_unloaded(self, label: str) -> on.Event:
        return on.CopyUnloaded(self.ids[label])

    def on_used(self, label: str, count: str) -> on.Event:
        return on.UsesReported((on.Use(self.ids[label], int(count), self.now),))

    def on_grown(self, size: str) -> on.Event:
        """grown BYTES: the process, for its models"""
        return on.MemoryMeasured(int(size))

    def on_after(self, seconds: str) -> on.Event:
        """after SECONDS: time passes, then a tick"""
        self.now += float(seconds)
        return on.Ticked()

    # --- what is commanded ----------------------------------------------------------------------

    def describe(self, command: do.Command) -> str:
        """Of an instance alone, which forwards nothing and tells nobody."""
        match command:
            case do.LoadCopy(revision, reserved, reason):
                return f"load {self.labels[revision.id]} into {reserved} bytes ({reason})"
            case do.UnloadCopy(revision, reason):
                return f"unload {self.labels[revision]} ({reason})"
            case do.Route(name, version, revision):
                return f"route {self.name(name, version)} to {self.labels[revision]}"
            case do.Unroute(name, version):
                return f"unroute {self.name(name, version)}"
            case do.Answer(ticket, revision):
                return f"answer {ticket}" + (f" with {self.labels[revision]}" if revision else "")
            case do.Refuse(ticket, code, message, wait_s):
                wait = f", again in {wait_s:g} s" if wait_s is not None else ""
                return f"refuse {ticket}: {code}{wait}: {self.readable(message)}"
            case do.Note(kind, _, revision, reason, message):
                return f"note {kind} ({reason}): {self.readable(message)}"
            case _:
                raise AssertionError(f"an instance alone commands {command}")

    def name(self, name: str, version: int | None) -> str:
        return name if version is None else f"{name} version {version}"

    def readable(self, message: str) -> str:
        for revision, label in self.labels.items():
            message = message.replace(revision, label)
        return message

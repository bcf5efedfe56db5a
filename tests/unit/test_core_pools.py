"""Accelerators as budgets of their own: where copies go, what leaves for them, what is refused."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.accelerators import PoolBudget, PoolFigures
from shoal.domain.mesh import Figures, Member, MemberState
from shoal.domain.model import ModelRecord, ModelSpec, Placement, make_revision
from shoal.domain.reasons import Reason

REQUIRED = Placement(accelerator="cuda")
PREFERRED = Placement(preferred_accelerator="cuda")


def declared(
    name: str, files_bytes: int = 100, placement: Placement | None = REQUIRED, *,
    form: str = "onnx", pin: bool = False,
) -> ModelRecord:
    spec = ModelSpec(name=name, uri=f"/{name}", placement=placement, pin=pin)
    revision = make_revision(spec, version=1, uri=f"/{name}/1", format=form,
                             artifact_digest=name, files_bytes=files_bytes)
    return ModelRecord(name=name, spec=spec, revisions=(revision,))


class Alone:
    """A core whose accelerators have such budgets, driven by hand: loads take 10 bytes of the host
    and what `sizes` says on the device."""

    def __init__(
        self, records: Iterable[ModelRecord], *budgets: int, sizes: dict[str, int] | None = None,
        budget_bytes: int = 10_000_000,
    ) -> None:
        self.records = {record.name: record for record in records}
        pools = tuple(PoolBudget(f"cuda:{at}", each) for at, each in enumerate(budgets))
        self.core = Core(Options(
            budget_bytes=budget_bytes, pools=pools, accelerators=("cuda",) if pools else (),
            accelerated_formats={"cuda": ("onnx",)}, load_concurrency=9,
        ), self.records.get)
        self.sizes = sizes or {}
        self.now = 0.0
        self.said: list[do.Command] = []
        for name, size in self.sizes.items():
            self.handle(on.SizeRemembered(name, 10, size))

    def handle(self, event: on.Event) -> list[do.Command]:
        self.now += 1.0
        commands = self.core.handle(event, self.now)
        self.core.check_invariants()
        self.said += commands
        return commands

    def request(self, name: str) -> list[do.Command]:
        return self.handle(on.CopyRequested(int(self.now), name))

    def load(self, name: str, accelerator_bytes: int | None = None) -> str | None:
        """A request, and the load that it causes; the device."""
        command = only(do.LoadCopy, self.request(name))
        size = self.sizes.get(name, 0) if accelerator_bytes is None else accelerator_bytes
        self.handle(on.CopyLoaded(
            command.revision.id, 10, 0.1, accelerator_bytes=size if command.device else 0))
        return command.device

    def use(self, name: str, times: int) -> None:
        key = self.records[name].revisions[0].id
        self.handle(on.UsesReported((on.Use(key, times, self.now),)))


def only(kind: type[do.LoadCopy], commands: Iterable[do.Command]) -> do.LoadCopy:
    found = [each for each in commands if isinstance(each, kind)]
    assert len(found) == 1, commands
    return found[0]


def refusals(commands: Iterable[do.Command]) -> list[do.Refuse]:
    return [each for each in commands if isinstance(each, do.Refuse)]


def unloads(commands: Iterable[do.Command]) -> list[str]:
    return [each.revision.partition("@")[0] for each in commands
            if isinstance(each, do.UnloadCopy)]


def test_a_copy_goes_to_the_device_with_most_room_and_stays_there() -> None:
    names = ("a", "b", "c")
    alone = Alone(map(declared, names), 1000, 1200, sizes={"a": 400, "b": 300, "c": 300})
    assert [alone.load(name) for name in names] == ["cuda:1", "cuda:0", "cuda:1"]
    assert [pool.booked_bytes for pool in alone.core.cache.pools.values()] == [300, 700]
    assert alone.core.cache.ledger.booked_bytes == 30


def test_room_is_reserved_on_both_before_a_load_starts() -> None:
    alone = Alone([declared("a")], 1000, sizes={"a": 400})
    command = only(do.LoadCopy, alone.request("a"))
    assert (command.device, command.accelerator_bytes) == ("cuda:0", 400)
    assert alone.core.cache.pools["cuda:0"].free_bytes == 600
    assert alone.core.cache.ledger.booked_bytes == command.reserved_bytes > 0


def test_only_what_lies_there_leaves_for_a_device() -> None:
    records = [declared("cpu", placement=None), declared("a"), declared("b"), declared("c")]
    alone = Alone(records, 1000, sizes={"a": 500, "b": 500, "c": 500})
    assert [alone.load(name) for name in ("cpu", "a", "b")] == [None, "cuda:0", "cuda:0"]
    alone.use("a", 5)
    commands = alone.request("c")
    assert unloads(commands) == ["b"]
    assert not [each for each in commands if isinstance(each, do.LoadCopy)], "b has not left yet"
    left = alone.handle(on.CopyUnloaded(records[2].revisions[0].id))
    assert only(do.LoadCopy, left).revision.model == "c"


def test_what_leaves_for_a_device_does_not_age_what_lies_in_host_memory() -> None:
    records = [declared("cpu", placement=None), declared("a"), declared("b")]
    alone = Alone(records, 1000, sizes={"a": 600, "b": 600})
    for name in ("cpu", "a"):
        alone.load(name)
    before = dict(alone.core.cache.eviction._ranks.of)  # type: ignore[attr-defined]
    alone.use("a", 1000)
    assert unloads(alone.request("b")) == ["a"]
    alone.handle(on.CopyUnloaded(records[1].revisions[0].id))
    alone.use("cpu", 1)
    after = alone.core.cache.eviction._ranks.of  # type: ignore[attr-defined]
    key = records[0].revisions[0].id
    assert after[key][1] == before[key][1], "a use more makes it worth one use, as its load did"


def test_what_is_larger_than_any_device_is_refused_with_the_setting_to_raise() -> None:
    alone = Alone([declared("a")], 300, 500, sizes={"a": 501})
    refused = refusals(alone.request("a"))
    assert [each.code for each in refused] == ["TOO_LARGE"]
    assert "'a' needs 501 bytes of the accelerator cuda:1" in refused[0].message
    assert "500 bytes; raise --accelerator-memory or --accelerator-share" in refused[0].message


def test_what_turns_out_larger_than_its_device_leaves_and_is_refused_from_then_on() -> None:
    alone = Alone([declared("a", files_bytes=100)], 400)
    command = only(do.LoadCopy, alone.request("a"))
    commands = alone.handle(on.CopyLoaded(command.revision.id, 10, 0.1, accelerator_bytes=600))
    assert unloads(commands) == ["a"]
    assert [each.code for each in refusals(commands)] == ["TOO_LARGE"]
    alone.handle(on.CopyUnloaded(command.revision.id))
    assert [each.code for each in refusals(alone.request("a"))] == ["TOO_LARGE"]


def test_what_only_prefers_a_device_runs_on_the_processor_when_it_turns_out_too_large() -> None:
    alone = Alone([declared("a", placement=PREFERRED)], 400)
    command = only(do.LoadCopy, alone.request("a"))
    assert command.device == "cuda:0"
    commands = alone.handle(on.CopyLoaded(command.revision.id, 10, 0.1, accelerator_bytes=600))
    assert unloads(commands) == ["a"]
    assert not refusals(commands), "who waits goes on waiting"
    again = only(do.LoadCopy, alone.handle(on.CopyUnloaded(command.revision.id)))
    assert again.device is None
    answers = alone.handle(on.CopyLoaded(command.revision.id, 600, 0.1))
    assert [each.revision for each in answers if isinstance(each, do.Answer)] == [
        command.revision.id]


def test_no_room_names_the_device_that_is_full_of_what_may_not_leave() -> None:
    alone = Alone([declared("kept", pin=True), declared("a")], 1000,
                  sizes={"kept": 800, "a": 300})
    command = only(do.LoadCopy, alone.handle(on.ModelDeclared(alone.records["kept"])))
    alone.handle(on.CopyLoaded(command.revision.id, 10, 0.1, accelerator_bytes=800))
    refused = refusals(alone.request("a"))
    assert [each.code for each in refused] == ["NO_ROOM"]
    assert "needs 300 bytes of the accelerator cuda:0; the budget there is 1,000 bytes, of which "\
        "200 are free" in refused[0].message


def test_a_preferred_kind_that_is_not_here_is_done_without() -> None:
    alone = Alone([declared("a", placement=PREFERRED)])
    assert alone.load("a") is None


def test_a_required_kind_that_is_not_here_is_refused() -> None:
    alone = Alone([declared("a")])
    (refused,) = refusals(alone.request("a"))
    assert refused.message == (
        "model 'a' must run on an accelerator (placement.accelerator: cuda), and no instance that "
        "is ready has one; add such an instance, or write preferred_accelerator")


def test_a_format_that_cannot_run_there_takes_no_room_there() -> None:
    alone = Alone([declared("a", placement=PREFERRED, form="sklearn")], 1000)
    assert alone.load("a") is None


def test_what_ran_on_the_processor_after_all_is_not_tried_there_again() -> None:
    alone = Alone([declared("a", placement=PREFERRED)], 1000)
    command = only(do.LoadCopy, alone.request("a"))
    assert command.device == "cuda:0"
    alone.handle(on.CopyLoaded(command.revision.id, 700, 0.1, accelerator_bytes=0))
    assert alone.core.cache.pools["cuda:0"].booked_bytes == 0
    assert alone.core.cache.ledger.booked_bytes == 700
    alone.handle(on.UnloadAsked(7, "a"))
    alone.handle(on.CopyUnloaded(command.revision.id))
    assert only(do.LoadCopy, alone.handle(on.LoadAsked(8, "a"))).device is None


def test_a_device_that_others_have_filled_is_tried_again_later_with_the_size_learnt() -> None:
    alone = Alone([declared("a", files_bytes=100)], 1000)
    command = only(do.LoadCopy, alone.request("a"))
    commands = alone.handle(on.CopyLoadFailed(
        command.revision.id, "ACCELERATOR_FULL", "cuda:0 has no memory", accelerator_bytes=450))
    assert [each.code for each in refusals(commands)] == ["ACCELERATOR_FULL"]
    alone.now += 60.0
    assert only(do.LoadCopy, alone.request("a")).accelerator_bytes == 450


def test_what_only_prefers_a_device_that_others_have_filled_runs_on_the_processor() -> None:
    alone = Alone([declared("a", placement=PREFERRED)], 1000)
    command = only(do.LoadCopy, alone.request("a"))
    commands = alone.handle(on.CopyLoadFailed(
        command.revision.id, "ACCELERATOR_FULL", "cuda:0 has no memory", accelerator_bytes=110))
    assert not refusals(commands)
    assert only(do.LoadCopy, commands).device is None
    answers = alone.handle(on.CopyLoaded(command.revision.id, 600, 0.1))
    assert [each.revision for each in answers if isinstance(each, do.Answer)]
    alone.handle(on.UnloadAsked(7, "a"))
    alone.handle(on.CopyUnloaded(command.revision.id))
    again = only(do.LoadCopy, alone.handle(on.LoadAsked(8, "a")))
    assert again.device == "cuda:0", "it is tried there anew at the next load"


def test_a_guess_of_what_it_takes_there_rules_no_device_out() -> None:
    alone = Alone([declared("a", files_bytes=950)], 1000)
    alone.handle(on.MemoryMeasured(0, (("cuda:0", 20),)))
    assert only(do.LoadCopy, alone.request("a")).accelerator_bytes == 980


def test_what_frameworks_hold_beside_the_copies_leaves_less_for_them() -> None:
    records = [declared("a"), declared("b")]
    alone = Alone(records, 1000, sizes={"a": 400, "b": 400})
    for name in ("a", "b"):
        alone.load(name)
    pool = alone.core.cache.pools["cuda:0"]
    assert not unloads(alone.handle(on.MemoryMeasured(0, (("cuda:0", 950),))))
    assert (pool.besides_bytes, pool.free_bytes) == (150, 50)
    assert unloads(alone.handle(on.MemoryMeasured(0, (("cuda:0", 1100),)))) == ["a"]
    alone.handle(on.CopyUnloaded(records[0].revisions[0].id))
    alone.handle(on.MemoryMeasured(0, (("cuda:0", 400),)))
    assert (pool.besides_bytes, pool.free_bytes) == (0, 600)


def test_while_something_is_loaded_nobody_can_tell_whose_the_memory_is() -> None:
    alone = Alone([declared("a")], 1000, sizes={"a": 400})
    alone.request("a")
    alone.handle(on.MemoryMeasured(0, (("cuda:0", 900),)))
    assert alone.core.cache.pools["cuda:0"].besides_bytes == 0


def test_filling_takes_no_more_of_a_device_than_its_share() -> None:
    alone = Alone(map(declared, "abc"), 1000, sizes={"a": 400, "b": 400, "c": 400})
    commands = alone.handle(on.FillOffered(("a", "b", "c")))
    loaded = [each.revision.model for each in commands if isinstance(each, do.LoadCopy)]
    assert loaded == ["a", "b"]


def test_the_members_are_told_what_is_free_on_each_device() -> None:
    alone = Alone([declared("a")], 1000, 500, sizes={"a": 400})
    alone.load("a")
    alone.handle(on.FiguresMeasured(0.1, 0))
    assert alone.core.view.figures_of("here").pools == (
        PoolFigures("cuda:0", 600, 400, 400), PoolFigures("cuda:1", 500, 400, 0))


# --- among others ---------------------------------------------------------------------------------


def member(name: str, *pools: int) -> Member:
    return Member(
        id=name, incarnation=name, state=MemberState.READY, budget_bytes=10_000,
        accelerators=("cuda",) if pools else (),
        pools=tuple(PoolBudget(f"cuda:{at}", each) for at, each in enumerate(pools)))


def home_among(record: ModelRecord, *others: Member) -> Core:
    """The home of the model, which has no accelerator itself."""
    for number in range(100):
        me = f"home{number}"
        core = Core(Options(me=me, budget_bytes=10_000,
                            accelerated_formats={"cuda": ("onnx",)}), {record.name: record}.get)
        core.handle(on.MembersChanged((member(me), *others), 1), 0.0)
        if core.decides_about(record.name):
            for each in others:
                core.handle(on.Told(each.id, mesh.Announce(1, (), True)), 0.0)
            core.handle(on.ModelDeclared(record), 0.0)
            return core
    raise AssertionError("it is never the home")


def granted(core: Core, name: str, now: float = 5.0) -> list[tuple[str, mesh.Grant]]:
    return [(each.instance, each.message)
            for each in core.handle(on.CopyRequested(1, name), now)
            if isinstance(each, do.Tell) and isinstance(each.message, mesh.Grant)]


def test_a_home_lets_those_load_it_whose_accelerator_has_room() -> None:
    record = declared("m")
    core = home_among(record, member("full", 1000), member("free", 1000), member("none"))
    core.handle(on.SizeRemembered("m", 10, 500), 1.0)
    for name, free in (("full", 100), ("free", 900)):
        figures = Figures(free_bytes=10_000, pools=(PoolFigures("cuda:0", free),))
        core.handle(on.Told(name, mesh.Beat(figures)), 1.0)
    assert [(each, said.size_bytes, said.accelerator_bytes)
            for each, said in granted(core, "m")] == [("free", 10, 500)]


def test_a_home_passes_over_accelerators_that_are_too_small() -> None:
    record = declared("m")
    core = home_among(record, member("small", 400), member("large", 1000))
    core.handle(on.SizeRemembered("m", 10, 500), 1.0)
    assert [each for each, _ in granted(core, "m")] == ["large"]


def test_with_a_preferred_kind_an_instance_that_has_it_goes_first() -> None:
    record = declared("m", placement=PREFERRED)
    core = home_among(record, member("gpu", 1000), member("a"), member("b"))
    assert [each for each, _ in granted(core, "m")] == ["gpu"]


def test_a_home_learns_what_a_copy_takes_on_an_accelerator_and_tells_the_next() -> None:
    record = declared("m", placement=PREFERRED)
    revision = record.revisions[0]
    core = home_among(record, member("one", 1000), member("two", 1000))
    first, said = granted(core, "m")[0]
    assert said.accelerator_bytes == 0, "nobody knows"
    other = "two" if first == "one" else "one"
    core.handle(on.Told(first, mesh.Held(
        revision, True, 10, 0.1, device="cuda:0", accelerator_bytes=77)), 6.0)
    holding = core.models["m"].held_by(revision.id)[first]
    assert (holding.device, holding.accelerator_bytes) == ("cuda:0", 77)
    core.handle(on.Told(first, mesh.Dropped(revision.id, Reason.ROOM)), 60.0)
    me = core.view.members[core.view.me]
    core.handle(on.MembersChanged((me, member(other, 1000)), 2), 61.0)
    core.handle(on.Told(other, mesh.Announce(2, (), True)), 61.0)
    assert [(each, grant.accelerator_bytes) for each, grant in granted(core, "m", 70.0)] == [
        (other, 77)]

"""Where homes let copies be loaded, and who is asked after somebody would not."""

from __future__ import annotations

from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.mesh import Member, MemberState
from shoal.domain.model import ModelRecord, ModelSpec, make_revision
from shoal.domain.reasons import Reason


def declared(name: str, files_bytes: int, **wishes: int) -> ModelRecord:
    spec = ModelSpec(name=name, uri=f"/{name}", min_copies=wishes.get("min_copies", 0))
    revision = make_revision(spec, version=1, uri=f"/{name}/1", format="onnx",
                             artifact_digest=name, files_bytes=files_bytes)
    return ModelRecord(name=name, spec=spec, revisions=(revision,))


def core_of(record: ModelRecord, *others: str, budget_bytes: int = 1000) -> Core:
    """One that knows a single model, of which it is the home whoever else there is."""
    core = Core(Options(budget_bytes=budget_bytes), {record.name: record}.get)
    members = [Member(id=each, incarnation=each, state=MemberState.READY,
                      budget_bytes=budget_bytes) for each in ("here", *others)]
    if others:
        core.handle(on.MembersChanged(tuple(members), 1), 0.0)
        for each in others:
            core.handle(on.Told(each, mesh.Announce(1, (), True)), 0.0)
    core.handle(on.ModelDeclared(record), 0.0)
    return core


def loads(commands: list[do.Command]) -> list[str]:
    return [each.revision.model for each in commands if isinstance(each, do.LoadCopy)]


def test_a_guess_that_is_larger_than_the_budget_rules_nobody_out() -> None:
    record = declared("m", files_bytes=600)
    core = core_of(record)
    assert core.cache.sizes.predict(record.revisions[0]).size_bytes > 1000
    assert loads(core.handle(on.CopyRequested(1, "m"), 0.0)) == ["m"]


def test_what_is_to_be_there_at_all_times_is_not_evicted() -> None:
    kept, other = declared("kept", 100, min_copies=1), declared("other", 100)
    core = Core(Options(budget_bytes=1000), {"kept": kept, "other": other}.get)
    for record in (kept, other):
        core.handle(on.SizeRemembered(record.name, 700), 0.0)
    assert loads(core.handle(on.ModelDeclared(kept), 0.0)) == ["kept"]
    core.handle(on.CopyLoaded(kept.revisions[0].id, 700, 0.1), 1.0)
    commands = core.handle(on.CopyRequested(1, "other"), 2.0)
    assert loads(commands) == []
    assert [each.code for each in commands if isinstance(each, do.Refuse)] == ["NO_ROOM"]


def home_of(record: ModelRecord) -> tuple[Core, str]:
    """A core that is the home among two, and the other one's id."""
    for number in range(50):
        other = f"there{number}"
        core = core_of(record, other)
        if core.decides_about(record.name):
            return core, other
    raise AssertionError("it is never the home")


def test_who_forgets_a_copy_before_it_hears_of_its_grant_is_not_believed() -> None:
    record = declared("m", files_bytes=10)
    core, other = home_of(record)
    key = record.revisions[0].id
    core.handle(on.Told(other, mesh.Held(record.revisions[0], ready=False)), 1.0)
    core.handle(on.Told(other, mesh.Dropped(key, Reason.ROOM)), 1.01)
    assert core.models["m"].coming(key) == [other]
    core.handle(on.Told(other, mesh.Dropped(key, Reason.ROOM)), 9.0)
    assert "m" not in core.models


def test_a_copy_that_was_let_go_of_and_is_told_of_again_is_let_go_of_again() -> None:
    record = declared("m", files_bytes=10)
    core, other = home_of(record)
    held = mesh.Held(record.revisions[0], size_bytes=10)
    core.handle(on.Told(other, held), 1.0)
    core.handle(on.UnloadAsked(1, "m"), 2.0)
    commands = core.handle(on.Told(other, held), 30.0)
    released = [each.message for each in commands if isinstance(each, do.Tell)
                and isinstance(each.message, mesh.Release)]
    assert released
    assert {each.reason for each in released} == {Reason.UNLOADED}


def test_who_tells_of_copies_and_is_never_seen_as_a_member_is_forgotten() -> None:
    record = declared("m", files_bytes=10)
    core, _ = home_of(record)
    core.handle(on.Told("stranger", mesh.Held(record.revisions[0], size_bytes=10)), 1.0)
    core.handle(on.Ticked(), 5.0)
    assert "m" in core.models
    core.handle(on.Ticked(), 12.0)
    assert "m" not in core.models


def told(commands: list[do.Command], kind: type[mesh.Message]) -> list[mesh.Message]:
    return [each.message for each in commands
            if isinstance(each, do.Tell) and isinstance(each.message, kind)]


def test_a_question_is_asked_again_when_its_home_reaches_this_instance() -> None:
    """Its first answer may have been lost: the links of newcomers come up one way at a time."""
    for number in range(50):
        other = f"there{number}"
        core = core_of(declared("m", files_bytes=10), other)
        if not core.decides_about("m"):
            break
    first = told(core.handle(on.CopyRequested(1, "m"), 1.0), mesh.Locate)
    again = told(core.handle(on.Told(other, mesh.Announce(1, (), True)), 1.1), mesh.Locate)
    assert first == again
    assert len(first) == 1


def test_taking_out_of_service_overrules_the_load_by_hand_before_it() -> None:
    record = declared("m", files_bytes=10)
    core, key = core_of(record), record.revisions[0].id
    assert loads(core.handle(on.LoadAsked(1, "m"), 1.0)) == ["m"]
    commands = core.handle(on.UnloadAsked(2, "m"), 1.1)
    assert [(each.ticket, each.code) for each in commands if isinstance(each, do.Refuse)] == [
        (1, "UNLOADED")]
    core.handle(on.CopyLoaded(key, 10, 0.1), 1.2)
    commands = core.handle(on.CopyUnloaded(key), 1.3)
    assert [each.ticket for each in commands if isinstance(each, do.Answer)] == [2]


def test_loading_by_hand_answers_who_waits_for_the_copy_to_leave() -> None:
    record = declared("m", files_bytes=10)
    core, key = core_of(record), record.revisions[0].id
    core.handle(on.LoadAsked(1, "m"), 1.0)
    core.handle(on.UnloadAsked(2, "m"), 1.1)
    core.handle(on.LoadAsked(3, "m"), 1.15)
    commands = core.handle(on.CopyLoaded(key, 10, 0.1), 1.2)
    assert [each.ticket for each in commands if isinstance(each, do.Answer)] == [3]
    assert not core.entry.waiting


def test_who_loads_it_is_asked_again_rather_than_nobody() -> None:
    record = declared("m", files_bytes=10)
    core, other = home_of(record)
    key = record.revisions[0].id
    core.handle(on.Told(other, mesh.Locate("m", None, 1, key, ("here",))), 1.0)
    assert core.models["m"].coming(key) == [other]
    again = mesh.Locate("m", None, 2, key, (other, "here"))
    answers = told(core.handle(on.Told(other, again), 1.01), mesh.Located)
    assert answers == [mesh.Located(2, key, (other,), ready=False)]

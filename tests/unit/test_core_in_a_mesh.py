"""One core among others, by the messages that it hears and sends."""

from __future__ import annotations

import msgspec

from shoal.core.node import Core
from shoal.core.options import Options
from shoal.domain import commands as do
from shoal.domain import events as on
from shoal.domain import mesh
from shoal.domain.mesh import Member, MemberState
from shoal.domain.model import ModelRecord, ModelSpec, Revision, make_revision
from shoal.domain.reasons import Reason

READY, DRAINING = MemberState.READY, MemberState.DRAINING


class One:
    """The instance `a`, which can reach all others. revision: of its one model, `name`."""

    def __init__(self, name: str) -> None:
        spec = ModelSpec(name=name, uri=f"/{name}")
        self.name = name
        self.revision: Revision = make_revision(
            spec, version=1, uri=spec.uri, format="onnx", artifact_digest=f"sha256:{name}",
            files_bytes=10)
        self.record = ModelRecord(name=name, spec=spec, revisions=(self.revision,))
        self.core = Core(Options(me="a", budget_bytes=1000), {name: self.record}.get)
        self.now = 0.0

    def hear(self, event: on.Event) -> list[do.Command]:
        commands = self.core.handle(event, self.now)
        self.core.check_invariants()
        return commands

    def told(self, sender: str, message: mesh.Message) -> list[do.Command]:
        return self.hear(on.Told(sender, message))

    def members(self, view: int, **states: MemberState) -> None:
        self.hear(on.MembersChanged(members(**states), view))
        for each in states:
            if each != "a":
                self.told(each, mesh.Announce(view))

    def request(self, ticket: int, miss: on.Miss | None = None) -> list[do.Command]:
        return self.hear(on.CopyRequested(
            ticket, self.name, None, attempt=int(miss is not None), miss=miss))


def members(**states: MemberState) -> tuple[Member, ...]:
    return tuple(Member(id=each, incarnation=f"{each}1", state=state, budget_bytes=1000)
                 for each, state in states.items())


def one(**homes: str) -> One:
    """With a model whose home is `homes[…]` among the members that these letters name."""
    for number in range(10_000):
        found = One(f"m{number}")
        for number_of_view, (among, home) in enumerate(homes.items(), 1):
            found.members(number_of_view, **dict.fromkeys(among, READY))
            if found.core.view.home(found.name) != home:
                break
        else:
            return One(found.name)
    raise AssertionError(f"no name has such homes: {homes}")


def located(commands: list[do.Command]) -> tuple[str, ...]:
    """Who answers, as the home told just now."""
    return next((each.message.holders for each in commands
                 if isinstance(each, do.Tell) and isinstance(each.message, mesh.Located)), ())


def missed(made: One, *, lost: bool) -> on.Miss:
    return on.Miss("b", made.revision.id, "UNREACHABLE", "instance 'b' is gone", 1.0, lost=lost)


def test_what_a_leaving_instance_told_before_its_leaving_was_known_is_kept() -> None:
    """It knows first that it leaves, and tells the next home; other news may come in between."""
    made = one(abc="b", ac="a")
    made.members(1, a=READY, b=READY)
    made.told("b", mesh.Announce(1, (mesh.Held(made.revision, size_bytes=10),)))
    made.members(2, a=READY, b=READY, c=READY)
    made.members(3, a=READY, b=DRAINING, c=READY)
    made.request(1)
    commands = made.request(2)
    assert [each.holders for each in commands if isinstance(each, do.AnswerElsewhere)] == [("b",)]
    assert not [each for each in commands if isinstance(each, do.LoadCopy)]


def test_what_was_never_sent_costs_no_retry() -> None:
    made = one(ab="a")
    made.members(1, a=READY, b=READY)
    for ticket in range(200):
        made.request(ticket, missed(made, lost=False))
    assert len(made.core.holder.waiting) == 200  # for the copy that this instance loads now


def test_forwarded_requests_earn_retries() -> None:
    made = one(ab="a")
    made.members(1, a=READY, b=READY)
    made.hear(on.ForwardsReported(((made.name, None),), count=500))
    commands = [each for ticket in range(400)
                for each in made.request(ticket, missed(made, lost=True))]
    refused = [each for each in commands if isinstance(each, do.Refuse)]
    assert len(refused) == 100  # 200 are always allowed, and a fifth of 500


def test_a_home_that_takes_a_copy_to_be_here_is_corrected_before_it_is_asked_again() -> None:
    made = one(ab="b")
    made.members(1, a=READY, b=READY)
    [asked] = [each.message for each in made.request(1) if isinstance(each, do.Tell)]
    assert isinstance(asked, mesh.Locate)
    commands = made.told("b", mesh.Located(asked.ask, made.revision.id, ("a",)))
    said = [each.message for each in commands if isinstance(each, do.Tell)]
    assert [type(each) for each in said] == [mesh.Dropped, mesh.Locate]


def questions(commands: list[do.Command]) -> list[tuple[str, mesh.Locate]]:
    return [(each.instance, each.message) for each in commands
            if isinstance(each, do.Tell) and isinstance(each.message, mesh.Locate)]


def test_a_home_is_told_of_all_who_cannot_be_reached_from_here() -> None:
    """Else two holders that only the home can reach would take turns."""
    made = one(abcd="b", abd="b")
    made.members(1, a=READY, b=READY, c=READY, d=READY)
    made.hear(on.PeerDown("c"))
    miss = on.Miss("d", made.revision.id, "UNREACHABLE", "instance 'd' is gone", 1.0)
    [(home, question)] = questions(made.request(1, miss))
    assert (home, question.without) == ("b", ("d", "c"))


def test_a_home_that_does_not_answer_is_asked_through_another_instance_too() -> None:
    """Its answers may not find their way here, though questions find theirs."""
    made = one(abc="b")
    made.members(1, a=READY, b=READY, c=READY)
    [(home, question)] = questions(made.request(1))
    made.now += 3.0
    [(other, again)] = questions(made.hear(on.Ticked()))
    assert (home, other) == ("b", "c")
    assert again == question


def test_who_gets_no_answer_from_a_home_decides_itself() -> None:
    made = one(abc="b")
    made.members(1, a=READY, b=READY, c=READY)
    made.request(1)
    said: list[do.Command] = []
    for _ in range(3):
        made.now += 3.0
        said += made.hear(on.Ticked())
    granted = [each for each in said if isinstance(each, do.LoadCopy)] + [
        each for each in said if isinstance(each, do.Tell) and isinstance(each.message, mesh.Grant)]
    assert len(granted) == 1


def test_who_relays_a_question_passes_the_answer_on() -> None:
    made = one(abc="b")
    made.members(1, a=READY, b=READY, c=READY)
    [(home, asked)] = questions(made.told("c", mesh.Locate(made.name, None, 7)))
    assert (home, asked.relayed) == ("b", "c")
    commands = made.told("b", mesh.Located(asked.ask, made.revision.id, ("b",)))
    [said] = commands
    assert said == do.Tell("c", mesh.Located(7, made.revision.id, ("b",)))


def test_who_is_the_home_no_longer_passes_on_what_waited_for_the_others() -> None:
    """`b` relays what it was asked before it heard that `a` leaves and it is the home itself."""
    made = one(abc="a", bc="b")
    made.members(1, a=READY, b=READY, c=READY)
    made.told("b", mesh.Held(made.revision))
    made.hear(on.MembersChanged(members(a=DRAINING, b=READY, c=READY), 2))
    assert not made.told("b", mesh.Locate(made.name, None, 7, relayed="c"))
    made.told("c", mesh.Announce(2))
    commands = made.told("b", mesh.Announce(2))
    [(home, asked)] = questions(commands)
    assert (home, asked.relayed) == ("b", "c")
    assert not [each for each in commands if isinstance(each, do.LoadCopy)]


def test_who_has_not_heard_of_a_change_of_members_waits_for_it_before_it_decides() -> None:
    """`b` leaves, tells its copies to the next home, and passes on what it is asked for others'."""
    made = one(abc="b", ac="a")
    made.members(1, a=READY, b=READY, c=READY)
    made.told("b", mesh.Announce(2))
    assert not made.told("b", mesh.Locate(made.name, None, 7, relayed="c"))
    made.hear(on.MembersChanged(members(a=READY, b=DRAINING, c=READY), 2))
    commands = made.told("c", mesh.Announce(2, (mesh.Held(made.revision),)))
    assert located(commands) == ("c",)
    assert not [each for each in commands if isinstance(each, do.LoadCopy)]


def test_who_became_ready_does_not_decide_before_the_others_know() -> None:
    """It knows its own state at once, with the number of the change before."""
    made = one(abc="a")
    made.members(1, a=MemberState.STARTING, b=READY, c=READY)
    made.hear(on.MembersChanged(members(a=READY, b=READY, c=READY), 1))
    assert not [each for each in made.request(1) if isinstance(each, do.Tell)]
    made.hear(on.MembersChanged(members(a=READY, b=READY, c=READY), 2))
    made.told("c", mesh.Announce(2))
    commands = made.told("b", mesh.Announce(2, (
        mesh.Held(made.revision),)))
    [found] = [each for each in commands if isinstance(each, do.AnswerElsewhere)]
    assert (found.ticket, found.holders) == (1, ("b",))


def test_who_becomes_ready_alone_waits_for_nobody() -> None:
    made = One("m")
    made.members(1, a=MemberState.STARTING)
    made.hear(on.MembersChanged(members(a=READY), 1))
    assert [each for each in made.request(1) if isinstance(each, do.LoadCopy)]


def test_who_leaves_keeps_questions_until_the_others_know() -> None:
    made = one(abc="a", bc="b")
    made.members(1, a=READY, b=READY, c=READY)
    leaving = members(a=DRAINING, b=READY, c=READY)
    made.hear(on.MembersChanged(leaving, 1))
    assert not questions(made.told("c", mesh.Locate(made.name, None, 7)))
    made.hear(on.MembersChanged(leaving, 2))
    made.told("c", mesh.Announce(2))
    [(home, asked)] = questions(made.told("b", mesh.Announce(2)))
    assert (home, asked.relayed) == ("b", "c")


def test_who_leaves_while_the_registry_is_away_is_not_held_up_for_long() -> None:
    made = one(abc="a", bc="b")
    made.members(1, a=READY, b=READY, c=READY)
    made.now = 100.0
    made.hear(on.MembersChanged(members(a=DRAINING, b=READY, c=READY), 1))
    assert not questions(made.told("c", mesh.Locate(made.name, None, 7)))
    made.now += made.core.options.barrier_s
    assert [home for home, _ in questions(made.hear(on.Ticked()))] == ["b"]
    assert [home for home, _ in questions(made.told("c", mesh.Locate(made.name, None, 8)))] == ["b"]


def test_a_change_of_members_that_never_comes_is_not_waited_for_long() -> None:
    made = one(abc="b", ac="a")
    made.members(1, a=READY, b=READY, c=READY)
    made.now = 100.0
    assert do.Wake(made.core.options.barrier_s) in made.told("b", mesh.Announce(2))
    assert not made.told("b", mesh.Locate(made.name, None, 7, relayed="c"))
    made.now += made.core.options.barrier_s
    assert located(made.hear(on.Ticked()))
    assert located(made.told("b", mesh.Locate(made.name, None, 8, relayed="c")))


def test_where_all_instances_start_it_is_they_that_are_waited_for() -> None:
    made = One("m")
    made.members(1, a=MemberState.STARTING, b=MemberState.STARTING)
    [refused] = [each for each in made.request(1) if isinstance(each, do.Refuse)]
    assert (refused.code, refused.retry_after_s) == ("UNAVAILABLE", 1.0)
    assert "no instance is ready to load model 'm'" in refused.message


def test_very_many_copies_are_announced_in_parts_that_a_message_takes() -> None:
    made = one(ab="b")
    made.members(1, a=READY, b=READY)
    for number in range(5_000):
        revision = msgspec.structs.replace(
            made.revision, id=f"{made.name}@1-{number:012}", memory_bytes=0)
        made.core.handle(on.Told("b", mesh.Grant(revision, 1, Reason.PINNED)), made.now)
    parts = [each.message for each in made.hear(on.PeerUp("b"))
             if isinstance(each, do.Tell) and isinstance(each.message, mesh.Announce)
             and (each.message.whole or each.message.view < 0)]
    assert [len(each.copies) for each in parts] == [2_000, 2_000, 1_000]
    told = [{held.revision.id for held in each.copies} for each in parts]
    assert set().union(*told) == set(made.core.cache.copies)
    assert set(parts[2].besides) == told[0] | told[1]


def test_entries_hear_at_once_that_a_model_was_taken_out_of_service() -> None:
    home = one(abc="a")
    home.members(1, a=READY, b=READY, c=READY)
    home.told("b", mesh.Held(home.revision))
    home.told("c", mesh.Locate(home.name, None, 1))
    commands = home.told("c", mesh.TakeOut(home.name, None, 2))
    told = [each.message for each in commands if isinstance(each, do.Tell) and each.instance == "c"]
    assert mesh.Holders(home.name, None, home.revision.id) in told


def test_a_declaration_that_comes_late_does_not_undo_what_was_asked_for_since() -> None:
    """`b` takes the model out, `c` brings it back; the registry's word comes after theirs."""
    home = one(abc="a")
    home.members(1, a=READY, b=READY, c=READY)
    out = msgspec.structs.replace(home.record, unloaded=(0,))
    home.told("b", mesh.Held(home.revision))
    home.told("b", mesh.TakeOut(home.name, None, 1, as_of=7))
    home.told("b", mesh.Dropped(home.revision.id, Reason.UNLOADED))
    home.told("c", mesh.Locate(home.name, None, 1, by_hand=True, as_of=8))
    home.told("b", mesh.Held(home.revision))
    assert not [each for each in home.hear(on.ModelDeclared(out, as_of=7))
                if isinstance(each, do.Tell) and isinstance(each.message, mesh.Release)]
    assert located(home.told("c", mesh.Locate(home.name, None, 2))) == ("b",)
    home.hear(on.ModelDeclared(home.record, as_of=8))
    home.told("c", mesh.TakeOut(home.name, None, 3, as_of=9))
    home.hear(on.ModelDeclared(home.record, as_of=8))
    assert not located(home.told("c", mesh.Locate(home.name, None, 4)))


def test_a_word_on_service_that_comes_after_a_later_one_is_not_heeded() -> None:
    home = one(abc="a")
    home.members(1, a=READY, b=READY, c=READY)
    home.told("b", mesh.Held(home.revision))
    home.told("c", mesh.Locate(home.name, None, 1, by_hand=True, as_of=8))
    commands = home.told("b", mesh.TakeOut(home.name, None, 1, as_of=7))
    assert commands == [do.Tell("b", mesh.TakenOut(1))]
    assert located(home.told("c", mesh.Locate(home.name, None, 2))) == ("b",)
    home.told("b", mesh.TakeOut(home.name, None, 2, as_of=10))
    home.told("c", mesh.Locate(home.name, None, 3, by_hand=True, as_of=8))
    assert not located(home.told("c", mesh.Locate(home.name, None, 4)))


def test_a_load_that_a_home_out_of_reach_had_here_is_not_waited_for_again() -> None:
    """What `b`, whom `c` relays, told this instance to do was lost; the next one is to be asked."""
    made = one(abc="b", ac="c")
    made.members(1, a=READY, b=READY, c=READY)
    made.hear(on.PeerDown("b"))
    [(home, asked)] = questions(made.request(1, missed(made, lost=False)))
    assert (home, asked.without) == ("c", ("b",))
    [(home, again)] = questions(made.told(
        "c", mesh.Located(asked.ask, made.revision.id, ("a",), ready=False)))
    assert (home, again.without) == ("c", ("b", "a"))


def test_a_home_tells_what_a_copy_takes_to_those_that_never_loaded_one() -> None:
    home = one(ab="a")
    home.members(1, a=READY, b=READY)
    home.told("b", mesh.Held(home.revision, size_bytes=700))
    home.told("b", mesh.Dropped(home.revision.id, Reason.IDLE))
    commands = home.told("b", mesh.Locate(
        home.name, None, 1, revision=home.revision.id, without=("a",)))
    grants = [each.message for each in commands
              if isinstance(each, do.Tell) and isinstance(each.message, mesh.Grant)]
    assert [each.size_bytes for each in grants] == [700]


def test_a_load_reserves_what_the_copy_took_elsewhere() -> None:
    made = one(ab="b")
    made.members(1, a=READY, b=READY)
    loads = [each for each in made.told("b", mesh.Grant(
        made.revision, 0, Reason.REQUESTED, size_bytes=700)) if isinstance(each, do.LoadCopy)]
    assert [each.reserved_bytes for each in loads] == [700]


def test_a_model_that_was_decided_about_in_another_s_stead_counts_for_no_home() -> None:
    homes = {}
    for home in ("a", "b"):
        made = one(abc=home)
        made.members(1, a=READY, b=READY, c=READY)
        made.told("c", mesh.Held(made.revision))
        assert made.name in made.core.models
        homes[home] = made.core.homes
    assert homes == {"a": 1, "b": 0}

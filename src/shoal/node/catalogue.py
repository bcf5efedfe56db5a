"""Looks through all models for those that somebody wants to see, in turns with everything else.

Every instance knows all declarations. What state their models are in is known to their homes, and
what those told is an argument.

A page without a filter costs only its own models. With one, every model that may match is looked
at for the first page, since the total is asked for; pages behind it go on from where they begin.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Final

from shoal.domain.model import ModelRecord
from shoal.domain.views import ModelPage, State
from shoal.node import story
from shoal.node.control import ModelFilter
from shoal.node.instance import Instance
from shoal.node.turns import Turns

_REMEMBERED: Final = 32  # totals, one a filter
_REMEMBERED_S: Final = 60.0  # people turn pages faster, and models come and go
_IN_PLAY: Final = frozenset((State.READY, State.LOADING, State.QUEUED, State.UNLOADED))


class Catalogue:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._totals: OrderedDict[ModelFilter, tuple[float, int]] = OrderedDict()

    async def page(self, wanted: ModelFilter, told: Mapping[str, State] | None = None) -> ModelPage:
        """As this instance sees the models. told: by other homes, of models that are in the state
        that is wanted, or for `cold` are not."""
        if wanted == ModelFilter(after=wanted.after, limit=wanted.limit):
            names = islice(self._instance.replica.names_after(wanted.after), wanted.limit + 1)
            found = [each for name in names if (each := self._instance.replica.get(name))]
            return await self._page(found, len(self._instance.replica), wanted.limit)
        total = self._remembered(wanted)
        found = []
        count = 0
        turns = Turns()
        told = told or {}
        for name in self._candidates(wanted, None if total is None else wanted.after, told):
            if turns.is_over():
                await turns.rest()
            record = self._matching(name, wanted, told)
            if record is None:
                continue
            count += 1
            if len(found) <= wanted.limit and (wanted.after is None or name > wanted.after):
                found.append(record)
            if total is not None and len(found) > wanted.limit:
                break
        if total is None:
            total = count
            self._remember(wanted, count)
        return await self._page(found, total, wanted.limit)

    async def in_play(self) -> dict[str, int]:
        """Models that this instance decides about, by the state of their default version. What is
        not in play, and so cold or invalid, is not counted."""
        instance = self._instance
        states: Counter[State] = Counter()
        turns = Turns()
        for name in list(instance.core.models):
            play = instance.core.models.get(name)
            if play is not None and instance.core.decides_about(name):
                states[story.state_of_model(instance, play.record)] += 1
            if turns.is_over():
                await turns.rest()
        return {state.value: count for state, count in states.items()}

    def by_state(self, in_play: Mapping[str, int]) -> dict[str, int]:
        """All models. in_play: what all homes together count."""
        instance = self._instance
        states = Counter(in_play)
        states[State.INVALID] += len(instance.invalid - instance.core.models.keys())
        states[State.COLD] += max(len(instance.replica) - states.total(), 0)
        return {state.value: states[state] for state in State if states[state]}

    async def _page(self, records: list[ModelRecord], total: int, limit: int) -> ModelPage:
        """One record more than `limit` says that there is another page."""
        models = []
        turns = Turns()
        for record in records[:limit]:
            models.append(story.view(self._instance, record))
            if turns.is_over():
                await turns.rest()
        return ModelPage(models, total, models[-1].name if len(records) > limit else None)

    def _candidates(
        self, wanted: ModelFilter, after: str | None, told: Mapping[str, State]
    ) -> Iterator[str]:
        """Names in order that may match, at least from behind `after`."""
        instance = self._instance
        some: Iterable[str]
        if wanted.state in _IN_PLAY:
            some = instance.core.models.keys() | told.keys()
        elif wanted.state is State.INVALID:
            some = instance.invalid
        else:
            yield from instance.replica.names_after(after)
            return
        for name in sorted(some):
            if after is None or name > after:
                yield name

    def _matching(
        self, name: str, wanted: ModelFilter, told: Mapping[str, State]
    ) -> ModelRecord | None:
        if wanted.contains is not None and wanted.contains not in name:
            return None
        record = self._instance.replica.get(name)
        if record is None:
            return None
        key, equals, value = (wanted.label or "").partition("=")
        labels = record.spec.labels
        matches = (
            (wanted.label is None or (key in labels and (not equals or labels[key] == value)))
            and (wanted.format is None
                 or any(each.format == wanted.format for each in record.revisions))
            and (wanted.state is None
                 or (told.get(name) or story.state_of_model(self._instance, record))
                 is wanted.state)
        )
        return record if matches else None

    def _remembered(self, wanted: ModelFilter) -> int | None:
        """The total that was told with the first page, if that was not long ago."""
        if wanted.after is None:
            return None
        at, total = self._totals.get(_kind(wanted), (0.0, None))
        fresh = self._instance.clock.monotonic() - at <= _REMEMBERED_S
        return total if fresh else None

    def _remember(self, wanted: ModelFilter, total: int) -> None:
        self._totals[_kind(wanted)] = (self._instance.clock.monotonic(), total)
        self._totals.move_to_end(_kind(wanted))
        if len(self._totals) > _REMEMBERED:
            self._totals.popitem(last=False)


def _kind(wanted: ModelFilter) -> ModelFilter:
    """Alike for the pages of one list."""
    return replace(wanted, after=None, limit=0)

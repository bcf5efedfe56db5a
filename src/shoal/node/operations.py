"""Everything an operator may ask, of all instances together: `Control`, on top of the shell.

Each instance answers for the whole mesh: it asks the others for what only they know, and what is
missing is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from shoal.domain.errors import ModelNotFound, NotFound
from shoal.domain.events import served
from shoal.domain.model import ModelSpec
from shoal.domain.serving_runtime import ServingRuntime
from shoal.domain.views import (
    CredentialsDeleted,
    CredentialsList,
    CredentialsView,
    Drained,
    EventPage,
    InstanceView,
    ModelPage,
    ModelView,
    Outcome,
    Registered,
    RuntimeDeleted,
    RuntimeList,
    RuntimeView,
    SettingView,
    State,
    Status,
    Story,
)
from shoal.node import questions as ask
from shoal.node import sentences, story, together
from shoal.node.activity import latency_view
from shoal.node.answering import Answering
from shoal.node.asking import PATIENCE_S, Answers, Asking
from shoal.node.by_hand import ByHand
from shoal.node.control import ModelFilter
from shoal.node.declarations import Declarations
from shoal.node.draining import Draining, Membership
from shoal.node.instance import Instance
from shoal.node.named_credentials import NamedCredentials
from shoal.node.own import MOST_PROBLEMS, Identity, Own
from shoal.node.serving_operations import ServingOperations
from shoal.observability.window import Counts
from shoal.runtimes.registry import RuntimeRegistry
from shoal.settings import Configuration, setting_fields, value_of

__all__ = ["Identity", "Operations"]

T = TypeVar("T")


class Operations:
    """`node.control.Control`. Runs on the event loop; reads files on threads. own: what this
    instance alone can tell. answering: what it answers to others that ask for theirs."""

    def __init__(self, instance: Instance, runtimes: RuntimeRegistry,
                 configuration: Configuration, identity: Identity,
                 credentials: NamedCredentials, serving: ServingOperations) -> None:
        self._instance = instance
        self._configuration = configuration
        self._credentials = credentials
        self._serving = serving
        self._draining = Draining(instance)
        self.own = Own(instance, runtimes, identity, self._draining)
        self.answering = Answering(self.own, self._draining)
        self._asking: Asking | None = None
        self.declarations = Declarations(instance, runtimes)
        self._by_hand = ByHand(instance)

    def join(self, membership: Membership) -> None:
        """There may be other instances from now on."""
        self._draining.membership = membership
        self._asking = Asking(membership.links)

    @property
    def _me(self) -> str:
        return self._instance.core.view.me

    @property
    def _others(self) -> list[str]:
        return [each for each in self._instance.core.view.members if each != self._me]

    # --- models ---------------------------------------------------------------------------------

    async def list_models(self, wanted: ModelFilter) -> ModelPage:
        if self._asking is None or not self._others:
            return await self.own.catalogue.page(wanted)
        told: dict[str, State] = {}
        missing: list[str] = []
        if wanted.state is not None and wanted.state is not State.INVALID:
            states = await self._asking.all(
                self._others, ask.TellStates(wanted.state), dict[str, State])
            missing = states.problems
            for each in states.given.values():
                told |= each
        page = await self.own.catalogue.page(wanted, told)
        found = await self._tell_models([model.name for model in page.models])
        models = self._merged(page.models, found)
        return ModelPage(
            models, page.total, page.next, list(dict.fromkeys((*missing, *found.problems))))

    async def models(self, names: Sequence[str]) -> list[ModelView]:
        records = [each for name in names if (each := self._instance.replica.get(name))]
        mine = [story.view(self._instance, record) for record in records]
        found = await self._tell_models([model.name for model in mine])
        return self._merged(mine, found)

    async def loaded_models(self) -> list[str]:
        names = set(self.own.loaded())
        if self._asking is not None:
            answers = await self._asking.all(self._others, ask.TellLoaded(), list[str])
            names.update(*answers.given.values())
        return sorted(name for name in names if name in self._instance.replica)

    async def _tell_models(self, names: Sequence[str]) -> Answers[list[ModelView]]:
        if self._asking is None or not names:
            return Answers({}, [])
        return await self._asking.all(
            self._others, ask.TellModels(tuple(names)), list[ModelView])

    def _merged(
        self, mine: Sequence[ModelView], found: Answers[list[ModelView]]
    ) -> list[ModelView]:
        told: dict[str, dict[str, ModelView]] = {
            model.name: {self._me: model} for model in mine}
        for instance, models in found.given.items():
            for model in models:
                told[model.name][instance] = model
        return [together.one_model(told[model.name], self._me) for model in mine]

    async def model(self, name: str) -> ModelView:
        mine = story.view(self._instance, self._instance.record(name))
        if self._asking is None:
            return mine
        told = {self._me: mine}
        await self._tell_model(told, name, [mine.home])
        if mine.home not in told:  # it knows nothing, is silent, or the home no longer
            await self._tell_model(told, name, self._others)
        holders = {copy.instance for view in told.values() for copy in view.where}
        await self._tell_model(told, name, sorted(holders))
        return together.one_model(told, self._me)

    async def _tell_model(
        self, told: dict[str, ModelView], name: str, instances: Sequence[str]
    ) -> None:
        """Ask those of them that have told nothing yet."""
        assert self._asking is not None
        asked = [each for each in instances if each not in told and each in self._others]
        answers = await self._asking.all(asked, ask.TellModels((name,)), list[ModelView])
        told |= {instance: models[0] for instance, models in answers.given.items() if models}

    async def explain(self, name: str) -> Story:
        told = {self._me: self.own.facts(name)}
        missing: list[str] = []
        if self._asking is not None:
            answers = await self._asking.all(self._others, ask.TellStory(name), ask.Facts)
            told |= answers.given
            missing = answers.problems
        model, facts = together.one_story(told, self._me)
        events = together.last_events(
            {each: facts.events for each, facts in told.items()}, story.EVENTS)
        several = bool(self._others)
        summary = sentences.summary(
            model, facts, self._instance.clock.wall(), several=several)
        if not several:
            events = told[self._me].events
        return Story(model, summary, facts[0].failures, events, missing)

    # --- declarations ---------------------------------------------------------------------------

    async def register(
        self, spec: ModelSpec, *, create: bool = False, read: bool = True
    ) -> ModelView:
        return await self.declarations.register(spec, create=create, read=read)

    async def register_all(
        self, specs: Sequence[ModelSpec], *, read: bool = True
    ) -> list[Registered]:
        return await self.declarations.register_all(specs, read=read)

    async def unregister(self, name: str) -> None:
        await self.declarations.unregister(name)

    async def unregister_all(self, names: Sequence[str]) -> list[Registered]:
        return await self.declarations.unregister_all(names)

    # --- by hand --------------------------------------------------------------------------------

    async def load(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        started = self._instance.clock.monotonic()
        await self._by_hand.load(name, version, self._timeout_s(wait), self._asking)
        return await self._outcome(name, version, started)

    async def unload(self, name: str, version: int | None = None, *, wait: bool = True) -> Outcome:
        started = self._instance.clock.monotonic()
        await self._by_hand.unload(name, version, self._timeout_s(wait))
        return await self._outcome(name, version, started)

    def _timeout_s(self, wait: bool) -> float | None:
        return self._instance.settings.load.timeout_s if wait else None

    async def _outcome(self, name: str, version: int | None, started: float) -> Outcome:
        record = self._instance.replica.get(name)
        if record is None:
            raise ModelNotFound(f"model {name!r} was unregistered meanwhile")
        model = await self.model(name)
        state = model.state
        revision = served(record, version) if version is not None else None
        if revision is not None:
            state = next((each.state for each in model.versions if each.revision == revision.id),
                         state)
        return Outcome(name, state, version if version is not None else model.default_version,
                       round(self._instance.clock.monotonic() - started, 6))

    # --- instances ------------------------------------------------------------------------------

    async def events(
        self, after: int = 0, limit: int = 100, model: str | None = None,
        instance: str | None = None,
    ) -> EventPage:
        if instance is not None and instance != self._me:
            return await self._ask_member(instance, ask.TellEvents(after, limit, model), EventPage)
        mine = self.own.events(after, limit, model)
        if instance is not None or self._asking is None or not self._others:
            return mine
        answers = await self._asking.all(
            self._others, ask.TellEvents(after, limit, model), EventPage)
        page = together.one_page(
            {self._me: mine, **answers.given}, after, limit, self._instance.clock.wall())
        return EventPage(page.events, page.next, answers.problems)

    async def instances(self) -> list[InstanceView]:
        if self._asking is None:
            return [self.own.view()]
        answers = await self._asking.all(self._others, ask.TellInstance(), InstanceView)
        return self._views({self._me: self.own.view(), **answers.given})

    def _views(self, told: dict[str, InstanceView]) -> list[InstanceView]:
        view = self._instance.core.view
        return [
            told.get(each) or together.silent_instance(
                member, view.figures_of(each), *self._instance.unreached.get(
                    each, (None, "it does not answer")))
            for each, member in sorted(view.members.items())
        ]

    async def status(self) -> Status:
        reports = {self._me: await self.own.report()}
        missing: list[str] = []
        if self._asking is not None:
            answers = await self._asking.all(self._others, ask.TellReport(), ask.Report)
            reports |= answers.given
            missing = answers.problems
        told = reports.values()
        problems = together.problems({each: said.problems for each, said in reports.items()},
                                     missing)
        return Status(
            ready=any(report.ready for report in told),
            models=len(self._instance.replica),
            by_state=self.own.catalogue.by_state(together.in_play(told)),
            totals=together.totals(told),
            latency=latency_view(sum((each.latency for each in told), Counts())),
            cold_latency=latency_view(sum((each.cold_latency for each in told), Counts())),
            instances=self._views({each: said.instance for each, said in reports.items()}),
            busiest=together.busiest(told),
            problems=problems[:MOST_PROBLEMS],
        )

    async def drain(self, instance: str, wish: ask.Leave) -> Drained:
        if instance == self._me:
            return await self._draining.leave(wish)
        return await self._ask_member(instance, wish, Drained, wish.timeout_s + PATIENCE_S)

    async def _ask_member(
        self, instance: str, question: ask.Question, kind: type[T],
        within_s: float = PATIENCE_S,
    ) -> T:
        if self._asking is None or instance not in self._others:
            known = ", ".join(sorted(self._instance.core.view.members))
            raise NotFound(f"there is no instance {instance!r}; known are {known}")
        return await self._asking.one(instance, question, kind, within_s)

    async def statistics(self, model: str | None) -> list[ask.Counted]:
        if self._asking is None:
            return []
        answers = await self._asking.all(
            self._others, ask.TellStatistics(model), list[ask.Counted])
        return [counted for each in answers.given.values() for counted in each]

    # --- credentials ----------------------------------------------------------------------------

    async def list_credentials(self) -> CredentialsList:
        return await self._credentials.all()

    async def credentials(self, name: str) -> CredentialsView:
        return await self._credentials.one(name)

    async def set_credentials(self, name: str, entry: Mapping[str, object]) -> CredentialsView:
        return await self._credentials.set(name, entry)

    async def delete_credentials(self, name: str) -> CredentialsDeleted:
        return await self._credentials.delete(name)

    # --- serving runtimes -----------------------------------------------------------------------

    async def list_runtimes(self) -> RuntimeList:
        return self._serving.all()

    async def runtime(self, name: str) -> RuntimeView:
        return self._serving.one(name)

    async def declare_runtime(self, serving: ServingRuntime) -> RuntimeView:
        return await self._serving.declare(serving)

    async def enable_runtime(self, name: str, *, enabled: bool) -> RuntimeView:
        return await self._serving.enable(name, enabled=enabled)

    async def delete_runtime(self, name: str, *, force: bool = False) -> RuntimeDeleted:
        return await self._serving.delete(name, force=force)

    # --- this instance --------------------------------------------------------------------------

    def settings_in_force(self) -> list[SettingView]:
        settings, sources = self._configuration.settings, self._configuration.sources
        return [
            SettingView(
                name=field.path, value=value_of(settings, field.path), default=field.default,
                source=sources[field.path], flag=field.flag, variable=field.variable,
                doc=field.doc,
            )
            for field in setting_fields()
        ]

    def problems_of_readiness(self) -> list[str]:
        return self.own.problems_of_readiness()

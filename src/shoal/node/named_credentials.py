"""Sets, lists and deletes credentials by name, as `node.control.Control` says.

Values go in and never come out: a view says which fields are set. Files win over the registry:
what whoever runs an instance has mounted there, nobody changes from afar.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from shoal.domain.errors import Conflict, InvalidSpecification, NotFound
from shoal.domain.model import ModelRecord, check_name
from shoal.domain.views import CredentialsDeleted, CredentialsList, CredentialsView
from shoal.node.journal import Journal
from shoal.node.replica import Replica
from shoal.node.stored_credentials import StoredCredentials
from shoal.node.using import who_uses
from shoal.storage.places.credentials import Access, Credentials, Source, access_of
from shoal.storage.places.fields import check_known
from shoal.storage.places.known import access_type
from shoal.storage.uri import is_remote

REGISTRY: Final = "registry"


class NamedCredentials:
    """credentials: all that are known to this instance. stored: those of them in the registry."""

    def __init__(
        self, credentials: Credentials, stored: StoredCredentials, replica: Replica,
        journal: Journal,
    ) -> None:
        self._credentials = credentials
        self._stored = stored
        self._replica = replica
        self._journal = journal

    async def all(self) -> CredentialsList:
        """By name; those of a file before what it hides."""
        return await asyncio.to_thread(self._list)

    async def one(self, name: str) -> CredentialsView:
        """Those that are used under the name. Raises NotFound."""
        listed = await self.all()
        for view in listed.credentials:
            if view.name == name:
                return view
        known = ", ".join(dict.fromkeys(each.name for each in listed.credentials))
        raise NotFound(f"credentials {name!r} are not known; known are {known or 'none'}")

    async def set(self, name: str, entry: Mapping[str, object]) -> CredentialsView:
        """Raises InvalidSpecification, Conflict for those of a file, StoreUnavailable."""
        check_name(name, "credentials")
        where = f"credentials {name!r}"
        access = access_of(name, entry, where)
        check_known(access.type, entry, where)
        if (file := await asyncio.to_thread(self._file_of, name)) is not None:
            raise _of_file(name, file)
        await self._stored.put(access)
        self._journal.note("credentials_set", f"credentials {name!r} were set ({access.type})")
        return self._view(name, access, self._stored.known)

    async def delete(self, name: str) -> CredentialsDeleted:
        """Raises NotFound, Conflict for those of a file alone, StoreUnavailable."""
        file = await asyncio.to_thread(self._file_of, name)
        if name not in self._stored.known.read():
            if file is not None:
                raise _of_file(name, file)
            known = ", ".join(sorted(self._stored.known.read()))
            raise NotFound(
                f"credentials {name!r} are not in the registry; there are {known or 'none'}")
        count = 0
        first: list[str] = []
        if file is None:  # else models go on with those of the file
            kind = await asyncio.to_thread(self._default_for, name)
            count, first = await who_uses(
                self._replica, name if kind is None else ":/",
                lambda record: _reads_with(record, name, kind))
        await self._stored.delete(name)
        self._journal.note("credentials_deleted", f"credentials {name!r} were deleted; "
                           f"{count} {'model uses' if count == 1 else 'models use'} them")
        return CredentialsDeleted(name, count, first)

    # --- which there are: on threads, since files are read --------------------------------------

    def _list(self) -> CredentialsList:
        views: list[CredentialsView] = []
        problems: list[str] = []
        hidden_by: dict[str, str] = {}
        for source in self._credentials.sources:
            try:
                entries = source.read()
            except InvalidSpecification as error:
                problems.append(error.message)
                continue
            for name, raw in entries.items():
                views.append(self._view(name, raw, source, hidden_by.get(name)))
                hidden_by.setdefault(name, source.describe())
        return CredentialsList(sorted(views, key=lambda view: view.name), problems)

    def _view(
        self, name: str, raw: Mapping[str, object] | InvalidSpecification | Access,
        source: Source, hidden_by: str | None = None,
    ) -> CredentialsView:
        stored = source is self._stored.known
        where = REGISTRY if stored else source.describe()
        encrypted = self._stored.known.is_encrypted(name) if stored else None
        problem = None if hidden_by is None else (
            f"{hidden_by} has the same name, and is used instead")
        access = raw
        if isinstance(raw, Mapping):
            try:
                access = access_of(name, raw, f"{source.describe()}: key {name!r}")
            except InvalidSpecification as error:
                access = error
        if isinstance(access, Access):
            return CredentialsView(
                name, access.type, list(access.values), where, encrypted, problem)
        assert isinstance(access, InvalidSpecification)
        return CredentialsView(name, "", [], where, encrypted, problem or access.message)

    def _file_of(self, name: str) -> str | None:
        """The file that has them. Raises InvalidSpecification where one cannot be read."""
        for source in self._credentials.sources:
            if source is not self._stored.known and name in source.read():
                return source.describe()
        return None

    def _default_for(self, name: str) -> str | None:
        """The type of whose places the registry's credentials `name` are the default ones."""
        raw = self._stored.known.read().get(name)
        if not isinstance(raw, Mapping):
            return None
        kind = str(raw["type"])
        special = f"default_{kind}"
        if name == special or (name == "default" and special not in self._credentials.names()):
            return kind
        return None


def _reads_with(record: ModelRecord, name: str, default_for: str | None) -> bool:
    """Does it name them, or are they its default credentials?"""
    said = [(record.spec.credentials, record.spec.uri)]
    said += [(each.credentials, each.uri) for each in record.revisions]
    return any(
        given == name or (given is None and _lies_at(uri, default_for)) for given, uri in said)


def _lies_at(uri: str, kind: str | None) -> bool:
    """Does a place with credentials of this type have it?"""
    try:
        return kind is not None and is_remote(uri) and access_type(uri) == kind
    except InvalidSpecification:  # of another release's scheme
        return False


def _of_file(name: str, file: str) -> Conflict:
    return Conflict(
        f"credentials {name!r} are in {file}, which wins over the registry; change them there, or "
        "take another name")

"""The settings of a mesh: instances that share a registry and act as one cache."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from shoal.settings.kinds import Address, Group, Labels, Names, Seconds, on_or_off


class MeshSettings(Group):
    """Instances that share a registry and act as one cache."""

    join: Annotated[Literal["auto", "on", "off"], BeforeValidator(on_or_off)] = "auto"
    """Whether this instance acts as one cache with all others that share its registry. `auto`:
    with `workers` above 1, with etcd, or where `mesh.listen` is set; a single process on SQLite
    does without, and writes nothing while it idles."""

    lease_s: Annotated[float, Field(ge=1)] = 10.0
    """Seconds after which an instance that has crashed is gone from the registry. Requests avoid it
    as soon as a connection to it breaks; this only decides when its models get another home for
    good. Shorter, a pause of the machine takes an instance out."""

    refresh_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between an instance's figures in the registry: its load, pressure, bytes. Instances
    tell each other more often; these are for newcomers and tools. With hundreds of instances, more
    spares the registry."""

    zone: str = ""
    """Where this instance runs, such as a data centre's name: copies of a model are spread over
    zones. Empty: unknown."""

    labels: Labels = ()
    """Labels (comma-separated, `name=value`) that models may ask of an instance, such as
    `disk=ssd`."""

    accelerators: Names = ()
    """Kinds of accelerators (comma-separated) that this instance has and models may ask for, such
    as `cuda`. Empty: those of `accelerator.devices`."""

    listen: Address = ""
    """`host:port` to listen on for other instances; port 0 takes any free one. Empty: a Unix socket
    in `data_dir`, which instances on the same machine reach faster than TCP, and others not."""

    advertise: Address = ""
    """`host:port` that other instances connect to. Empty: where it listens; listening on all
    addresses, the one under which the host's name is known. Needed behind address translation."""

    cert_file: str = ""
    """Certificate that this instance shows to others over TCP, in PEM, with those that lead to its
    authority; needs `key_file` and `ca_file`. Empty: no TLS, and whoever reaches the address may
    ask for anything; then keep it inside a network that is trusted."""

    key_file: str = ""
    """Private key of `cert_file`, in PEM."""

    ca_file: str = ""
    """Certificates of the authorities that sign those of other instances, in PEM. Best one of the
    mesh's own: whatever it signed is let in, host names are not compared."""

    silence_s: Annotated[float, Field(gt=0)] = 3.0
    """Seconds without a sign of life after which the link to another instance is cut, and its
    requests go elsewhere; it is asked three times in between. The same for all instances."""

    target_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of an instance's processors that one copy of a model may keep busy before another
    instance loads one too. So little, because few models are so busy, and their copies spread the
    load evenly: measured, 5 % needs one extra copy for thousands of models."""

    steady_per_min: Annotated[float, Field(ge=0)] = 1.0
    """Requests a minute from which a model counts as in steady use: it gets a second copy while
    there is free memory, so that losing an instance costs no cold start. 0: every model that was
    used."""

    hot_s: Seconds = 60.0
    """Seconds since its last use in which a model is loaded elsewhere before an instance that holds
    it leaves."""

    surplus_s: Seconds = 60.0
    """Seconds for which fewer copies must have been enough before one is given up where memory is
    short. Shorter, copies come and go with every pause."""

    max_attempts: Annotated[int, Field(ge=1)] = 4
    """Instances that one request is sent to, one after the other, when they fail to answer."""

    retry_share: Annotated[float, Field(ge=0)] = 0.2
    """Requests sent to another instance after a failure, as a share of all: a mesh in trouble must
    not get several times its load."""

    def labels_by_name(self) -> dict[str, str]:
        return {name: value for name, _, value in (label.partition("=") for label in self.labels)}

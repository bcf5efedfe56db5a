"""Who signs models in tests: with keys of their own, by the library that people sign with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing


class Signer:
    """Keeps `<name>.key` and `<name>.pub` in `folder`, which must exist."""

    def __init__(self, folder: Path, name: str = "signer",
                 curve: ec.EllipticCurve | None = None) -> None:
        key = ec.generate_private_key(curve or ec.SECP256R1())
        self.private, self.public = folder / f"{name}.key", folder / f"{name}.pub"
        self.private.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))
        self.public.write_bytes(key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))

    def sign(self, model: Path, to: Path | None = None, ignored: Sequence[Path] = (),
             rules: hashing.Config | None = None) -> Path:
        """Sign the folder `model`, or the file; where the signature lies: `to`, else in the folder,
        or beside the file."""
        beside = model.with_name(model.name + ".sig")
        to = to or (model / "model.sig" if model.is_dir() else beside)
        rules = rules or hashing.Config()
        rules.set_ignored_paths(paths=[to, *ignored])
        signing.Config().use_elliptic_key_signer(
            private_key=self.private).set_hashing_config(rules).sign(model, to)
        return to

"""Whether an artifact is signed by somebody whose keys are known; signed by the library that people
sign with."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from model_signing import hashing
from tests.certificates import Authority
from tests.signers import Signer
from tests.storage_fakes import SuffixFinder, put

from shoal.domain.errors import ArtifactChanged, InvalidSpecification, NotTrusted
from shoal.domain.model import ModelSpec, Revision
from shoal.settings import TrustSettings
from shoal.storage.declare import declare
from shoal.storage.grouping import Grouping
from shoal.storage.signing import Signature, Signatures, places_of, signature_at, signatures_of


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys"), "stranger")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of several files, which is a folder."""
    put(tmp_path / "models/mood/model.py", b"class Mood: ...")
    put(tmp_path / "models/mood/inner/words.txt", b"good")
    return tmp_path / "models/mood"


def revision_of(path: Path, version: int = 1) -> Revision:
    record = declare(ModelSpec(name="m", uri=str(path)), SuffixFinder(), registered_at=0.0)
    return next(each for each in record.revisions if each.version == version)


def check(revision: Revision, *signers: Signer) -> None:
    path = Path(revision.uri)
    Signatures([str(each.public) for each in signers]).check(revision, path, signature_at(path))


def refusal(revision: Revision, *signers: Signer) -> str:
    with pytest.raises(NotTrusted) as caught:
        check(revision, *signers)
    assert revision.uri in caught.value.message
    return caught.value.message


# --- what is accepted -----------------------------------------------------------------------------


def test_a_signed_folder_is_accepted(model: Path, signer: Signer) -> None:
    signer.sign(model)
    check(revision_of(model), signer)


def test_a_signed_file_is_accepted(tmp_path: Path, signer: Signer) -> None:
    path = put(tmp_path / "iris.joblib")
    signer.sign(path)
    check(revision_of(path), signer)


def test_a_file_in_a_signed_folder_is_accepted(tmp_path: Path, signer: Signer) -> None:
    put(tmp_path / "iris/model.joblib")
    put(tmp_path / "iris/README.md", b"about it")
    put(tmp_path / "iris/model.yaml", b"pin: true")
    signer.sign(tmp_path / "iris")
    check(revision_of(tmp_path / "iris"), signer)


def test_versions_may_be_signed_together(tmp_path: Path, signer: Signer) -> None:
    put(tmp_path / "prices/1/model.joblib", b"1")
    put(tmp_path / "prices/2/model.joblib", b"2")
    signer.sign(tmp_path / "prices")
    for version in (1, 2):
        check(revision_of(tmp_path / "prices", version), signer)


def test_a_version_that_is_a_folder_may_be_signed_with_the_others(tmp_path: Path, signer: Signer
                                                                  ) -> None:
    put(tmp_path / "mood/1/model.py", b"1")
    put(tmp_path / "mood/1/words.txt", b"1")
    signer.sign(tmp_path / "mood")
    check(revision_of(tmp_path / "mood"), signer)


def test_weights_beside_a_signed_file_belong_to_it(tmp_path: Path, signer: Signer) -> None:
    put(tmp_path / "net/model.onnx")
    put(tmp_path / "net/model.onnx.data", b"weights")
    signer.sign(tmp_path / "net")
    check(revision_of(tmp_path / "net"), signer)


def test_hidden_files_belong_to_no_model(model: Path, signer: Signer) -> None:
    put(model / ".secret", b"1")
    signer.sign(model)
    put(model / ".secret", b"2")
    check(revision_of(model), signer)


def test_any_of_the_keys_will_do(model: Path, signer: Signer, stranger: Signer) -> None:
    signer.sign(model)
    check(revision_of(model), stranger, signer)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=["P-384", "P-521"])
def test_larger_keys_are_known(model: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    signer = Signer(tmp_path, "large", curve)
    signer.sign(model)
    check(revision_of(model), signer)


def test_what_was_signed_with_a_certificate_is_accepted_by_that_certificate(
    model: Path, tmp_path: Path
) -> None:
    from model_signing import signing

    certificate, key = Authority(tmp_path).sign("models")
    signing.Config().use_certificate_signer(
        private_key=key, signing_certificate=certificate,
        certificate_chain=[tmp_path / "ca.pem"],
    ).set_hashing_config(hashing.Config()).sign(model, tmp_path / "mood.sig")
    (tmp_path / "mood.sig").rename(model.with_name("mood.sig"))
    revision = revision_of(model)
    Signatures([str(certificate)]).check(revision, model, signature_at(model))
    with pytest.raises(NotTrusted, match="by none of the keys"):
        Signatures([str(tmp_path / "ca.pem")]).check(revision, model, signature_at(model))


# --- what is refused ------------------------------------------------------------------------------


def test_what_is_not_signed_is_refused_with_where_it_was_looked_for(model: Path, signer: Signer
                                                                     ) -> None:
    said = refusal(revision_of(model), signer)
    assert "is not signed, as trust.signatures requires" in said
    assert f"{model}/model.sig, {model}.sig, {model.parent}/model.sig" in said


def test_a_signature_of_somebody_else_is_refused(model: Path, signer: Signer, stranger: Signer
                                                 ) -> None:
    stranger.sign(model)
    said = refusal(revision_of(model), signer)
    assert f"the signature {model}/model.sig is by none of the keys in trust.public_keys" in said


def test_a_changed_file_is_named(model: Path, signer: Signer) -> None:
    signer.sign(model)
    put(model / "model.py", b"import os")
    said = refusal(revision_of(model), signer)
    assert f"does not vouch for {model}: model.py differs from what was signed" in said
    assert "words.txt" not in said


def test_an_added_file_is_named(model: Path, signer: Signer) -> None:
    signer.sign(model)
    put(model / "inner/sitecustomize.py")
    assert f"{model}: inner/sitecustomize.py is not covered by it" in refusal(
        revision_of(model), signer)


def test_a_missing_file_is_named(model: Path, signer: Signer) -> None:
    signer.sign(model)
    (model / "inner/words.txt").unlink()
    assert "inner/words.txt was signed and is missing" in refusal(revision_of(model), signer)


def test_of_many_files_some_are_named(model: Path, signer: Signer) -> None:
    signer.sign(model)
    for number in range(7):
        put(model / f"more{number}.py")
    assert "more4.py and 2 more are not covered by it" in refusal(revision_of(model), signer)


def test_a_changed_lone_file_is_refused(tmp_path: Path, signer: Signer) -> None:
    path = put(tmp_path / "iris.joblib", b"1")
    signer.sign(path)
    put(path, b"2")
    assert "the file differs from what was signed" in refusal(revision_of(path), signer)


def test_weights_put_beside_a_signed_file_are_refused(tmp_path: Path, signer: Signer) -> None:
    path = put(tmp_path / "net.onnx")
    signer.sign(path)
    put(tmp_path / "net.onnx.data", b"weights")
    assert "net.onnx.data is not covered by it" in refusal(revision_of(path), signer)


def test_a_signature_of_another_model_is_refused(model: Path, tmp_path: Path, signer: Signer
                                                 ) -> None:
    other = put(tmp_path / "other/weights.bin").parent
    signer.sign(other).rename(model / "model.sig")
    said = refusal(revision_of(model), signer)
    assert "inner/words.txt, model.py are not covered by it" in said


def altered(signature: Path) -> None:
    bundle = json.loads(signature.read_text())
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"]).replace(b"words", b"sword")
    envelope["payload"] = base64.b64encode(payload).decode()
    signature.write_text(json.dumps(bundle))


def test_an_altered_signature_is_told(model: Path, signer: Signer) -> None:
    altered(signer.sign(model))
    with pytest.raises(NotTrusted, match=r"model.sig was altered after it was made"):
        check(revision_of(model), signer)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b"[1]", b'{"dsseEnvelope": 3}'],
                         ids=["empty", "binary", "object", "list", "other"])
def test_a_file_that_is_no_signature_is_told(model: Path, signer: Signer, content: bytes) -> None:
    put(model / "model.sig", content)
    with pytest.raises(NotTrusted, match=r"model.sig is no signature of OpenSSF Model Signing"):
        check(revision_of(model), signer)


@pytest.mark.parametrize("rules", ["blake2", "shards"])
def test_other_hashes_are_refused_with_the_way_out(model: Path, signer: Signer, rules: str
                                                   ) -> None:
    config = hashing.Config()
    if rules == "shards":
        config.use_shard_serialization()
    else:
        config.use_file_serialization(hashing_algorithm="blake2")
    signer.sign(model, rules=config)
    with pytest.raises(NotTrusted, match="and not by their SHA-256; sign the model again without"):
        check(revision_of(model), signer)


def signed_payload(signer: Signer, kind: str, payload: bytes) -> Signature:
    key = serialization.load_pem_private_key(signer.private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    from cryptography.hazmat.primitives.hashes import SHA256

    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [
        {"sig": base64.b64encode(key.sign(message, ec.ECDSA(SHA256()))).decode()}]}
    return Signature("model.sig", json.dumps({"dsseEnvelope": envelope}).encode())


STATEMENT = {"_type": "https://in-toto.io/Statement/v1",
             "predicateType": "https://model_signing/signature/v1.0"}
TWICE = [{"name": "a", "algorithm": "sha256", "digest": each} for each in ("00", "11")]


@pytest.mark.parametrize(("kind", "payload", "why"), [
    ("text/plain", {}, "its payload is 'text/plain'"),
    ("application/vnd.in-toto+json", {}, "required field"),
    ("application/vnd.in-toto+json",
     {**STATEMENT, "predicateType": "https://slsa.dev/v1", "predicate": {"resources": []}},
     "it states 'https://slsa.dev/v1'"),
    ("application/vnd.in-toto+json", {**STATEMENT, "predicate": {"resources": TWICE}},
     "it names 'a' twice"),
], ids=["text", "nothing", "provenance", "twice"])
def test_what_is_signed_must_be_a_list_of_files(
    model: Path, signer: Signer, kind: str, payload: dict[str, object], why: str
) -> None:
    signature = signed_payload(signer, kind, json.dumps(payload).encode())
    with pytest.raises(NotTrusted, match=why):
        Signatures([str(signer.public)]).check(revision_of(model), model, signature)


def test_what_was_declared_must_be_what_is_signed(model: Path, signer: Signer) -> None:
    before = revision_of(model)
    put(model / "model.py", b"class Other: ...")
    signer.sign(model)
    with pytest.raises(ArtifactChanged, match="is signed, but is not what was declared"):
        check(before, signer)


def test_what_a_registry_says_counts_for_nothing(model: Path, signer: Signer) -> None:
    signer.sign(model)
    put(model / "model.py", b"import os")
    forged = msgspec.structs.replace(revision_of(model), trust="code")
    assert "model.py differs" in refusal(forged, signer)


# --- where and when -------------------------------------------------------------------------------


def test_the_nearest_signature_counts(model: Path, signer: Signer, stranger: Signer) -> None:
    signer.sign(model.parent)
    check(revision_of(model), signer)
    stranger.sign(model)
    refusal(revision_of(model), signer)


@pytest.mark.parametrize(("artifact", "is_folder", "places"), [
    ("/m/a.onnx", False, ["/m/a.onnx.sig", "/m/model.sig"]),
    ("/s/m/a.onnx", False, ["/s/m/a.onnx.sig", "/s/m/model.sig", "/s/model.sig"]),
    ("s3://b/m/1", True, ["s3://b/m/1/model.sig", "s3://b/m/1.sig", "s3://b/m/model.sig",
                          "s3://b/model.sig"]),
    ("s3://b/m", True, ["s3://b/m/model.sig", "s3://b/m.sig", "s3://b/model.sig"]),
    ("m/a.onnx", False, ["m/a.onnx.sig", "m/model.sig", "model.sig"]),
    ("", True, ["model.sig"]),
], ids=["file", "deep", "prefix", "bucket", "inside", "all"])
def test_where_signatures_are_looked_for(artifact: str, is_folder: bool, places: list[str]) -> None:
    assert places_of(artifact, is_folder=is_folder) == places


def test_a_signature_is_part_of_no_model(tmp_path: Path, signer: Signer) -> None:
    path = put(tmp_path / "iris/model.joblib")
    before = revision_of(tmp_path / "iris")
    signer.sign(path)
    signer.sign(tmp_path / "iris")
    assert revision_of(tmp_path / "iris") == before


def test_a_signature_is_no_entry_of_a_watched_folder() -> None:
    names = {"iris.joblib": False, "iris.joblib.sig": False, "mood": True, "mood.sig": False}
    grouping = Grouping(SuffixFinder())
    assert grouping.entries(names) == {"iris.joblib": ("iris.joblib.sig",), "mood": ()}
    assert "iris.joblib" in grouping.group("iris.joblib.sig")


@pytest.fixture
def wanted(signer: Signer, tmp_path: Path) -> Signatures:
    (tmp_path / "link").symlink_to(tmp_path / "signed")
    put(tmp_path / "signed/iris/model.joblib")
    return Signatures([str(signer.public)], [str(tmp_path / "signed"), "s3://farm/models"])


def test_only_listed_locations_need_signatures(wanted: Signatures, tmp_path: Path) -> None:
    assert wanted.wanted(str(tmp_path / "signed/iris/model.joblib"))
    assert wanted.wanted("s3://farm/models/iris")
    assert not wanted.wanted(str(tmp_path / "other/model.joblib"))
    assert not wanted.wanted(str(tmp_path / "signed-not/model.joblib"))
    assert not wanted.wanted("s3://farm/other/iris")


def test_links_and_dots_lead_around_no_signature(wanted: Signatures, tmp_path: Path) -> None:
    put(tmp_path / "other/model.joblib")
    (tmp_path / "signed/out.joblib").symlink_to(tmp_path / "other/model.joblib")
    assert wanted.wanted(str(tmp_path / "link/iris"))
    assert wanted.wanted(str(tmp_path / "other/../signed/iris"))
    assert wanted.wanted(str(tmp_path / "signed/out.joblib"))
    assert wanted.wanted("s3://farm/other/../models/iris")


# --- the settings ---------------------------------------------------------------------------------


def test_without_the_setting_nothing_needs_a_signature() -> None:
    assert signatures_of(TrustSettings()) is None


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidSpecification, match=r"trust.public_keys names no key"):
        signatures_of(TrustSettings(signatures="required"))
    with pytest.raises(InvalidSpecification, match=r"but trust.signatures is off"):
        signatures_of(TrustSettings(signed_locations=("/models",)))


def test_with_the_setting_and_no_location_everything_does(signer: Signer) -> None:
    signatures = signatures_of(
        TrustSettings(signatures="required", public_keys=(str(signer.public),)))
    assert signatures is not None
    assert signatures.wanted("/anywhere")


def test_a_key_that_is_none_is_refused_at_the_start(tmp_path: Path, signer: Signer) -> None:
    with pytest.raises(InvalidSpecification, match=r"nothing.pub, .* cannot be read: No such file"):
        Signatures([str(tmp_path / "nothing.pub")])
    for name, content in (("text", b"my key"), ("private", signer.private.read_bytes())):
        with pytest.raises(InvalidSpecification, match=f"{name}.* holds no public key"):
            Signatures([str(put(tmp_path / name, content))])
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InvalidSpecification, match="elliptic curve keys over NIST P-256"):
        Signatures([str(put(tmp_path / "ed25519.pub", other))])

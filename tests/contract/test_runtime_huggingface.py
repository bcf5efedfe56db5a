"""Hugging Face folders: each task beside transformers' own pipeline, and what is refused."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.cases import Case
from examples.further.huggingface import SENTENCES, write

from shoal.codecs.message import InferRequest, Tensor
from shoal.codecs.v1 import decode, to_request
from shoal.dataplane.validation import RequestCheck
from shoal.domain.errors import InvalidArtifact, InvalidInput, InvalidSpecification, RuntimeMissing
from shoal.domain.model import ModelSpec
from shoal.domain.signature import TensorSpec
from shoal.ports import Artifact, LoadedModel, RowLimited
from shoal.runtimes.huggingface import HuggingFaceRuntime
from shoal.runtimes.registry import RuntimeRegistry
from shoal.storage.declare import declare
from shoal.storage.mlserver import parse_model_settings

Further = Callable[[str], tuple[Path, dict[str, Case]]]
Made = Callable[..., Path]

PEOPLE = ("O", "B-PER", "B-LOC")
VERDICTS = ("contradiction", "neutral", "entailment")


def texts(*given: str) -> Any:
    return np.array([text.encode() for text in given], dtype=object)


def load(folder: Path, **artifact: Any) -> LoadedModel:
    return HuggingFaceRuntime().load(Artifact("m", 1, folder, "huggingface", **artifact))


def ask(model: LoadedModel, *given: str, outputs: tuple[str, ...] = (), **parameters: Any) -> Any:
    return model.predict({"text": texts(*given)}, parameters, outputs)


def words(array: Any) -> list[str]:
    return [item.decode() for item in array.ravel()]


def pipeline(task: str, folder: Path) -> Any:
    import transformers

    return transformers.pipeline(task, model=str(folder))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folders by their class and configuration, each made once and not to be changed."""
    made: dict[str, Path] = {}

    def get(kind: str, labels: tuple[str, ...] = (), **config: Any) -> Path:
        key = f"{kind}{labels}{config}"
        if key not in made:
            made[key] = write(tmp_path_factory.mktemp("hf") / "model", kind, labels, **config)
        return made[key]

    return get


@pytest.fixture
def moods(further: Further) -> Path:
    return further("huggingface")[0] / "moods"


@pytest.fixture
def copy(moods: Path, tmp_path: Path) -> Path:
    """One to be changed."""
    return Path(shutil.copytree(moods, tmp_path / "moods"))


def edit(folder: Path, name: str = "config.json", **fields: Any) -> Path:
    path = folder / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **fields}))
    return folder


class TestTasks:
    def test_all_scores_are_answered_on_demand(self, moods: Path) -> None:
        model = load(moods)
        assert model.signature.default_outputs == ("label", "score")
        answer = ask(model, *SENTENCES[:2], outputs=("scores",))
        assert answer["scores"].shape == (2, 2)
        np.testing.assert_allclose(answer["scores"].sum(axis=1), [1, 1], 1e-6)

    @pytest.mark.parametrize(("problem", "labels"), [
        ("multi_label_classification", ("a", "b")), ("regression", ("worth",)), (None, ("worth",)),
    ], ids=["several", "regression", "one"])
    def test_scores_are_those_of_the_pipeline(
        self, make: Made, problem: str | None, labels: tuple[str, ...]
    ) -> None:
        folder = make("BertForSequenceClassification", labels, problem_type=problem)
        answer = ask(load(folder), SENTENCES[0])
        expected = pipeline("text-classification", folder)(SENTENCES[0])
        assert words(answer["label"]) == [expected[0]["label"]]
        np.testing.assert_allclose(answer["score"], [expected[0]["score"]], 1e-4)

    @pytest.mark.parametrize("strategy", ["none", "simple", "max"])
    def test_entities_are_those_of_the_pipeline(self, make: Made, strategy: str) -> None:
        folder = make("BertForTokenClassification", PEOPLE)
        asked = [SENTENCES[5], SENTENCES[0]]
        answer = ask(load(folder), *asked, aggregation_strategy=strategy)
        expected = pipeline("token-classification", folder)(asked, aggregation_strategy=strategy)
        found = [json.loads(text) for text in words(answer["entities"])]
        assert found
        for entities, reference in zip(found, expected, strict=True):
            assert len(entities) == len(reference)
            for entity, other in zip(entities, reference, strict=True):
                assert entity.pop("score") == pytest.approx(float(other.pop("score")), 1e-4)
                assert entity == other

    def test_labels_of_entities_may_be_ignored(self, make: Made) -> None:
        model = load(make("BertForTokenClassification", PEOPLE))
        answer = ask(model, SENTENCES[5], ignore_labels=list(PEOPLE))
        assert words(answer["entities"]) == ["[]"]

    def test_fillings_are_those_of_the_pipeline(self, make: Made) -> None:
        folder = make("BertForMaskedLM")
        asked = ["great [MASK] and kind people", "the [MASK] was rude"]
        answer = ask(load(folder), *asked, top_k=3)
        expected = pipeline("fill-mask", folder)(asked, top_k=3)
        assert words(answer["token"]) == [each["token_str"] for row in expected for each in row]
        assert words(answer["sequence"]) == [each["sequence"] for row in expected for each in row]
        np.testing.assert_allclose(
            answer["score"], [[each["score"] for each in row] for row in expected], 1e-4)

    @pytest.mark.parametrize("several", [False, True])
    def test_zero_shot_is_that_of_the_pipeline(self, make: Made, several: bool) -> None:
        folder = make("BertForSequenceClassification", VERDICTS)
        model = load(folder, options={"task": "zero-shot-classification"})
        asked, labels = list(SENTENCES[:2]), ["travel", "food", "music"]
        answer = ask(model, *asked, candidate_labels=labels, multi_label=several)
        expected = pipeline("zero-shot-classification", folder)(
            asked, candidate_labels=labels, multi_label=several)
        assert words(answer["labels"]) == [label for each in expected for label in each["labels"]]
        np.testing.assert_allclose(answer["scores"], [each["scores"] for each in expected], 1e-4)

    @pytest.mark.parametrize("mode", ["cls_token", "max_tokens", "lasttoken"])
    def test_embeddings_are_pooled_as_described(
        self, further: Further, tmp_path: Path, mode: str
    ) -> None:
        folder = Path(shutil.copytree(further("huggingface")[0] / "phrases", tmp_path / "p"))
        pooling = {f"pooling_mode_{mode}": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        tokens = np.array(pipeline("feature-extraction", folder)(SENTENCES[3])[0])
        expected = {"cls_token": tokens[0], "max_tokens": tokens.max(axis=0),
                    "lasttoken": tokens[-1]}[mode]
        answer = ask(load(folder), SENTENCES[3], SENTENCES[0])["embedding"]
        np.testing.assert_allclose(answer[0], expected / np.linalg.norm(expected), 1e-4, 1e-6)

    def test_embeddings_of_a_plain_model_are_means(self, make: Made) -> None:
        folder = make("BertModel")
        tokens = np.array(pipeline("feature-extraction", folder)(SENTENCES[3])[0])
        answer = ask(load(folder), SENTENCES[3])["embedding"]
        np.testing.assert_allclose(answer[0], tokens.mean(axis=0), 1e-4, 1e-6)

    def test_a_default_prompt_comes_before_each_text(self, further: Further, tmp_path: Path
                                                     ) -> None:
        folder = Path(shutil.copytree(further("huggingface")[0] / "phrases", tmp_path / "p"))
        plain = ask(load(folder), "never again")["embedding"]
        edit(folder, "config_sentence_transformers.json",
             prompts={"query": "never "}, default_prompt_name="query")
        assert ask(load(folder), "again")["embedding"].tolist() == plain.tolist()

    def test_a_masked_language_model_gives_embeddings_if_asked_to(self, make: Made) -> None:
        model = load(make("BertForMaskedLM"), options={"task": "text_embedding"})
        assert model.signature.outputs == (TensorSpec("embedding", "FP32", (-1, 32)),)


class TestTexts:
    def test_a_column_of_texts_is_taken(self, moods: Path) -> None:
        model = load(moods)
        row, column = texts(*SENTENCES[:3]), texts(*SENTENCES[:3]).reshape(-1, 1)
        answers = [model.predict({"text": each}, {})["score"].tolist() for each in (row, column)]
        assert answers[0] == answers[1]

    def test_any_name_passes_the_check_of_requests(self, moods: Path) -> None:
        check = RequestCheck(load(moods).signature)
        data = texts("a").reshape(1, 1)
        arrays = check.arrays(InferRequest([Tensor("args", "BYTES", (1, 1), data)]))
        assert list(arrays) == ["text"]

    @pytest.mark.parametrize(("array", "said"), [
        (np.array([1, 2]), "takes text"),
        (texts("a", "b", "c", "d").reshape(2, 2), r"shape \[2, 2\]"),
        (np.array([b"\xff"], dtype=object), "not UTF-8"),
    ], ids=["numbers", "matrix", "latin"])
    def test_what_is_no_list_of_texts_is_the_callers_fault(
        self, moods: Path, array: Any, said: str
    ) -> None:
        with pytest.raises(InvalidInput, match=said):
            load(moods).predict({"text": array}, {})

    def test_no_texts_have_no_answers(self, make: Made, moods: Path, further: Further) -> None:
        assert ask(load(moods))["score"].shape == (0,)
        assert ask(load(further("huggingface")[0] / "phrases"))["embedding"].shape == (0, 32)
        assert ask(load(make("BertForMaskedLM")))["token"].shape == (0, 5)
        assert ask(load(make("BertForTokenClassification", PEOPLE)))["entities"].shape == (0,)

    def test_a_long_text_is_cut_at_what_the_model_reads(self, moods: Path) -> None:
        model = load(moods)
        long, longer = ("fresh food " * count for count in (40, 400))
        assert ask(model, long)["score"].tolist() == ask(model, longer)["score"].tolist()

    def test_many_texts_answer_as_each_alone(self, moods: Path) -> None:
        model = load(moods)
        asked = [SENTENCES[n % 5] + " food" * (n % 7) for n in range(70)]
        together = ask(model, *asked)["score"]
        alone = [ask(model, text)["score"][0] for text in asked]
        np.testing.assert_allclose(together, alone, 1e-4)

    def test_without_a_padding_token_texts_go_one_by_one(self, copy: Path) -> None:
        expected = ask(load(copy), *SENTENCES[:3])["score"]
        edit(copy, "tokenizer_config.json", pad_token=None)
        np.testing.assert_allclose(ask(load(copy), *SENTENCES[:3])["score"], expected, 1e-4)

    def test_threads_do_not_disturb_the_tokenizer(self, moods: Path) -> None:
        model = load(moods)
        asked = [SENTENCES[n % 4] * (n % 3 + 1) for n in range(60)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda text: ask(model, text)["score"][0], asked))
        np.testing.assert_allclose(found, ask(model, *asked)["score"], 1e-4)


class TestMasksAndLabels:
    def test_a_text_without_a_mask_is_the_callers_fault(self, make: Made) -> None:
        model = load(make("BertForMaskedLM"))
        with pytest.raises(InvalidInput, match=r"text 1 has 0 masks.*\[MASK\]"):
            ask(model, "great [MASK]", "great food")
        with pytest.raises(InvalidInput, match="text 0 has 2 masks"):
            ask(model, "[MASK] [MASK]")

    @pytest.mark.parametrize(("parameters", "said"), [
        ({"top_k": 0}, "top_k"), ({"top_k": "3"}, "top_k"),
    ], ids=["none", "text"])
    def test_wrong_counts_are_the_callers_fault(
        self, make: Made, parameters: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(InvalidInput, match=said):
            ask(load(make("BertForMaskedLM")), "[MASK]", **parameters)

    def test_an_unknown_strategy_is_the_callers_fault(self, make: Made) -> None:
        model = load(make("BertForTokenClassification", PEOPLE))
        with pytest.raises(InvalidInput, match="one of none, simple"):
            ask(model, "a", aggregation_strategy="best")
        with pytest.raises(InvalidInput, match="ignore_labels must be a list"):
            ask(model, "a", ignore_labels=3)

    @pytest.fixture
    def judge(self, make: Made) -> LoadedModel:
        return load(make("BertForSequenceClassification", VERDICTS),
                    options={"task": "zero-shot-classification"})

    @pytest.mark.parametrize(("parameters", "said"), [
        ({}, "needs candidate_labels"),
        ({"candidate_labels": []}, "is empty"),
        ({"candidate_labels": "[1"}, "no JSON list"),
        ({"candidate_labels": ["a"], "hypothesis_template": "none"}, "needs {}"),
        ({"candidate_labels": ["a"], "multi_label": 1}, "true or false"),
    ], ids=["none", "empty", "json", "template", "several"])
    def test_wrong_parameters_are_the_callers_fault(
        self, judge: LoadedModel, parameters: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(InvalidInput, match=said):
            ask(judge, "a", **parameters)

    def test_labels_come_as_input_or_as_text(self, judge: LoadedModel) -> None:
        expected = ask(judge, *SENTENCES[:2], candidate_labels=["food", "music"])
        for given in ('["food", "music"]', "food, music"):
            answer = ask(judge, *SENTENCES[:2], candidate_labels=given)
            assert answer["scores"].tolist() == expected["scores"].tolist()
        for labels in (texts("food", "music"), texts(*["food", "music"] * 2).reshape(2, 2)):
            inputs = {"text": texts(*SENTENCES[:2]), "candidate_labels": labels}
            assert judge.predict(inputs, {})["scores"].tolist() == expected["scores"].tolist()

    def test_requests_with_labels_are_never_joined(self, judge: LoadedModel) -> None:
        assert isinstance(judge, RowLimited)
        assert judge.max_batch_rows == 1

    def test_labels_of_the_declaration_serve_v1(self, make: Made) -> None:
        model = load(make("BertForSequenceClassification", VERDICTS), options={
            "task": "zero-shot-classification", "candidate_labels": ["food", "music"]})
        request = to_request(decode(b'{"instances": ["a", "b"]}'), model.signature)
        arrays = RequestCheck(model.signature).arrays(request)
        assert model.predict(arrays, {})["labels"].shape == (2, 2)

    def test_a_model_that_judges_nothing_is_no_zero_shot(self, moods: Path) -> None:
        with pytest.raises(InvalidSpecification, match="label 'entailment'; it has sad, happy"):
            load(moods, options={"task": "zero-shot-classification"})


class TestFolders:
    def test_pickled_weights_are_refused_with_the_way_out(self, copy: Path) -> None:
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        assert HuggingFaceRuntime().recognise(copy, b"")
        with pytest.raises(InvalidArtifact, match=r"only pytorch_model.bin, a pickle.*save_pretr"):
            load(copy)

    def test_code_of_its_own_is_not_run_and_noted(self, copy: Path) -> None:
        (copy / "modeling.py").write_text("raise SystemExit('run')")
        edit(copy, auto_map={"AutoModelForSequenceClassification": "modeling.Mine"})
        model: Any = load(copy)
        assert "auto_map" in model.notes[0]
        assert "BertForSequenceClassification answers instead" in model.notes[0]

    def test_an_architecture_of_its_own_is_refused(self, copy: Path) -> None:
        (copy / "modeling.py").write_text("raise SystemExit('run')")
        edit(copy, model_type="mine", auto_map={
            "AutoConfig": "modeling.Config", "AutoModelForSequenceClassification": "modeling.Mine"})
        with pytest.raises(InvalidArtifact, match=r"needs code of its own .* never run"):
            load(copy)

    def test_an_unknown_architecture_is_refused(self, copy: Path) -> None:
        edit(copy, model_type="unheard-of")
        with pytest.raises(InvalidArtifact, match="unheard-of") as raised:
            load(copy)
        assert "\n" not in raised.value.message

    @pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertForQuestionAnswering", ""])
    def test_an_architecture_for_another_task_is_refused(self, copy: Path, name: str) -> None:
        edit(copy, architectures=[name])
        with pytest.raises(InvalidArtifact, match="is for none of the tasks"):
            load(copy)

    def test_an_unknown_task_is_refused(self, moods: Path) -> None:
        with pytest.raises(InvalidSpecification, match="option task is 'dance'"):
            load(moods, options={"task": "dance"})

    def test_weights_that_are_missing_are_not_made_up(self, make: Made) -> None:
        with pytest.raises(InvalidArtifact, match=r"weights lack classifier\.bias"):
            load(make("BertModel"), options={"task": "text-classification"})

    @pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.999])
    def test_half_written_weights_are_refused(self, copy: Path, kept: float) -> None:
        path = copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
        with pytest.raises(InvalidArtifact, match="moods cannot be read") as raised:
            load(copy)
        assert "\n" not in raised.value.message

    @pytest.mark.parametrize(("name", "said"), [
        ("config.json", "config.json"), ("tokenizer.json", "moods cannot be read"),
        ("tokenizer_config.json", "tokenizer_config.json"),
    ])
    def test_damaged_descriptions_are_refused(self, copy: Path, name: str, said: str) -> None:
        (copy / name).write_text('{"a": ')
        with pytest.raises(InvalidArtifact, match=said) as raised:
            load(copy)
        assert "\n" not in raised.value.message

    def test_a_folder_without_a_tokenizer_is_refused(self, copy: Path) -> None:
        for path in copy.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(InvalidArtifact, match="it has no tokenizer"):
            load(copy)

    @pytest.mark.parametrize(("index", "said"), [
        ({}, "names no files"),
        ({"weight_map": {"a": "../outside.safetensors"}}, "no safetensors file beside it"),
        ({"weight_map": {"a": "part.bin"}}, "no safetensors file beside it"),
        ({"weight_map": {"a": "part.safetensors"}}, "part.safetensors is missing"),
    ], ids=["none", "outside", "pickle", "missing"])
    def test_parts_must_lie_beside_their_index(
        self, copy: Path, index: dict[str, Any], said: str
    ) -> None:
        (copy / "model.safetensors").unlink()
        edit(copy, "model.safetensors.index.json", **index)
        with pytest.raises(InvalidArtifact, match=said):
            load(copy)

    def test_weights_in_parts_are_read(self, copy: Path) -> None:
        expected = ask(load(copy), SENTENCES[0])["score"]
        (copy / "model.safetensors").rename(copy / "part.safetensors")
        from safetensors import safe_open

        with safe_open(copy / "part.safetensors", "np") as parts:
            names = list(parts.keys())
        edit(copy, "model.safetensors.index.json", metadata={},
             weight_map=dict.fromkeys(names, "part.safetensors"))
        assert ask(load(copy), SENTENCES[0])["score"].tolist() == expected.tolist()

    def test_an_adapter_is_refused_with_the_way_out(self, copy: Path) -> None:
        edit(copy, "adapter_config.json", base_model_name_or_path="other/model")
        with pytest.raises(InvalidArtifact, match="merge_and_unload"):
            load(copy)

    @pytest.mark.parametrize(("modules", "said"), [
        ([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}], "step Dense"),
        ([{"type": "sentence_transformers.models.Pooling", "path": "../x"}], "not in it"),
        ([{"type": "sentence_transformers.models.Pooling", "path": "1"}], "asks for the pooling"),
        (["Pooling"], "no list of objects"),
    ], ids=["dense", "outside", "unknown", "text"])
    def test_unknown_steps_of_an_embedding_are_refused(
        self, copy: Path, modules: list[Any], said: str
    ) -> None:
        (copy / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(InvalidArtifact, match=said):
            load(copy)

    def test_a_file_that_is_overwritten_does_not_change_answers(self, copy: Path) -> None:
        model = load(copy)
        before = ask(model, SENTENCES[0])["score"].tolist()
        with (copy / "model.safetensors").open("r+b") as file:
            file.seek(20_000)
            file.write(b"\x7f" * 20_000)
        assert ask(model, SENTENCES[0])["score"].tolist() == before

    def test_loading_asks_no_network_and_prints_nothing(
        self, copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("a connection")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        load(copy)
        assert capfd.readouterr() == ("", "")

    def test_without_transformers_the_extra_is_named(
        self, moods: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(RuntimeMissing, match=r"shoal\[huggingface\]"):
            load(moods)

    @pytest.mark.parametrize("name", ["MLmodel", "model.py"])
    def test_folders_of_other_formats_stay_theirs(self, copy: Path, name: str) -> None:
        (copy / name).write_text("flavors: {}\n")
        registry = RuntimeRegistry.installed()
        claims = [f for f in registry.formats() if registry.get(f).recognise(copy, b"")]
        assert len(claims) == 1
        assert claims != ["huggingface"]

    def test_other_forms_beside_it_do_not_matter(self, copy: Path) -> None:
        (copy / "onnx").mkdir()
        (copy / "onnx" / "model.onnx").write_bytes(b"weights")
        (copy / "pytorch_model.bin").write_bytes(b"weights")
        (copy / "README.md").write_text("# A model")
        record = declare(ModelSpec(name="m", uri=str(copy)), RuntimeRegistry.installed(),
                         registered_at=0)
        assert record.revisions[0].format == "huggingface"
        assert record.revisions[0].uri == str(copy)


class TestMlserver:
    def test_its_settings_name_the_task(self) -> None:
        described = parse_model_settings(json.dumps({
            "implementation": "mlserver_huggingface.HuggingFaceRuntime",
            "parameters": {"uri": "./model", "extra": {"task": "text-classification"}},
        }), Path("/m/model-settings.json"))
        assert described.spec.format == "huggingface"
        assert described.spec.options == {"task": "text-classification"}

    def test_a_model_by_name_is_not_fetched(self) -> None:
        with pytest.raises(InvalidSpecification, match="hf://distilbert/tiny"):
            parse_model_settings(json.dumps({
                "implementation": "mlserver_huggingface.runtime.HuggingFaceRuntime",
                "parameters": {"extra": {"pretrained_model": "distilbert/tiny"}},
            }), Path("/m/model-settings.json"))

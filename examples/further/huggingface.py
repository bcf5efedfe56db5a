"""Small networks for text, as `save_pretrained` writes them.

Weights are random and the vocabulary is that of a few sentences: what they answer means nothing,
and is computed as the answers of large ones are.

    moods      text classification: happy or sad
    phrases    embeddings, as sentence-transformers describes them
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from examples.cases import Case, question, reply

SEED: Final = 7
SENTENCES: Final = (
    "the soup was cold and the waiter was rude", "a lovely evening with fresh food",
    "great wine and kind people", "never again", "this example is about travel, food or music",
    "Ada Lovelace lived in London",
)
_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "initializer_range": 0.5,
}


def make(folder: Path) -> list[Case]:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cases = [_moods(folder), _phrases(folder)]
    torch.set_num_threads(threads)
    return cases


def write(folder: Path, kind: str, labels: tuple[str, ...] = (), **config: Any) -> Path:
    """A BERT of the class `kind` with the tokenizer for it."""
    import torch
    import transformers

    tokenizer = _tokenizer()
    if labels:
        config["id2label"] = dict(enumerate(labels))
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    torch.manual_seed(SEED)
    sizes = transformers.BertConfig(vocab_size=len(tokenizer), **{**_SIZES, **config})
    shutil.rmtree(folder, ignore_errors=True)
    getattr(transformers, kind)(sizes).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
               "sep_token": "[SEP]", "mask_token": "[MASK]"}
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=list(special.values()), show_progress=False)
    pieces.train_from_iterator(SENTENCES, trainer)
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, pieces.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=64, **special)


def _moods(folder: Path) -> Case:
    from transformers import pipeline

    path = write(folder / "moods", "BertForSequenceClassification", ("sad", "happy"))
    reviews = list(SENTENCES[:3])
    answers = pipeline("text-classification", model=str(path))(reviews)
    return Case("moods", "huggingface", "moods", question(text=np.array(reviews)), reply(
        label=np.array([answer["label"] for answer in answers]),
        score=np.array([answer["score"] for answer in answers], "f4"),
    ))


def _phrases(folder: Path) -> Case:
    """Means of the tokens' vectors, of length 1."""
    from transformers import pipeline

    path = write(folder / "phrases", "BertModel")
    (path / "modules.json").write_text(json.dumps([
        {"idx": index, "name": str(index), "path": at,
         "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, at) in enumerate(
            [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")])
    ]))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(
        {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True,
         "pooling_mode_cls_token": False}))
    phrases = list(SENTENCES[:3])
    tokens = pipeline("feature-extraction", model=str(path))(phrases)
    means = np.array([np.mean(each[0], axis=0) for each in tokens])
    embeddings = means / np.linalg.norm(means, axis=1, keepdims=True)
    return Case("phrases", "huggingface", "phrases", question(text=np.array(phrases)),
                reply(embedding=embeddings.astype("f4")))

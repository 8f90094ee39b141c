"""Tiny text models with random weights, saved as transformers saves its own."""

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "tale", "dull", "fine", "a", "was"]
SIZE = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"intermediate_size": 32, "max_position_embeddings": 48, "pad_token_id": 0}
GPT2 = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "bos_token_id": 2}
GPT2 |= {"eos_token_id": 3, "pad_token_id": 0}
GPT_NEO = {"vocab_size": 32, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 48}
GPT_NEO |= {"attention_types": [[["global", "local"], 1]], "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
DISTIL = {"vocab_size": 32, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 48}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": SIZE,
    "roberta": {**SIZE, "pad_token_id": 1},
    "xlm-roberta": {**SIZE, "pad_token_id": 1},
    "camembert": {**SIZE, "pad_token_id": 1},
    "ernie": SIZE,
    "distilbert": DISTIL,
    "electra": {**SIZE, "embedding_size": 8},
    "gpt2": GPT2,
    "gpt_neo": GPT_NEO,
}


def word_tokenizer() -> str:
    """A tokenizer.json of whole words, with the marks of BERT at both ends."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106 - no secret
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return str(tokenizer.to_str())


def save_model(folder: Path, family: str, **changed: Any) -> Path:
    """A folder with config.json, tokenizer and weights."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family] | changed)
    AutoModel.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(word_tokenizer())
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 40, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return folder

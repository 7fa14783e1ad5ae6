"""BERT encoders: one model folder, read by transformers and by KerasHub as it is."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tlcourse.backbones.image import fingerprint


@dataclass(frozen=True)
class TextEncoder:
    """A pretrained encoder with its tokenizer; ``layers`` counts from 0, the embeddings."""

    name: str
    framework: str
    model: Any
    tokenizer: Any
    layers: tuple[int, ...]
    width: int
    max_length: int

    def tokenize(self, texts, max_length: int | None = None) -> list[np.ndarray]:
        """Return one int32 array of token ids a text, the special tokens first and last.

        Texts longer than ``max_length`` tokens (the model's own limit by default) are cut.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts must be a sequence of strings; got {type(texts).__name__}.")
        limit = min(max_length or self.max_length, self.max_length)
        if not len(texts):
            return []
        if self.framework == "pytorch":
            rows = self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
            return [np.array(row, np.int32) for row in rows]
        # BERT calls its special tokens cls and sep, RoBERTa start and end.
        first, last = (
            getattr(self.tokenizer, f"{bert}_token_id", None)
            or getattr(self.tokenizer, f"{roberta}_token_id")
            for bert, roberta in (("cls", "start"), ("sep", "end"))
        )
        return [
            np.array([first, *row[: limit - 2], last], np.int32)
            for row in self.tokenizer(list(texts))
        ]

    def pad(self, tokens, length: int | None = None) -> dict[str, np.ndarray]:
        """Return one batch under the native model's own input names, int32 (N, length).

        ``length``: the longest of the batch by default.
        """
        length = length or max(map(len, tokens))
        ids = np.full((len(tokens), length), self.tokenizer.pad_token_id, np.int32)
        mask = np.zeros((len(tokens), length), np.int32)
        for row, token_ids in enumerate(tokens):
            ids[row, : len(token_ids)] = token_ids[:length]
            mask[row, : len(token_ids)] = 1
        if self.framework == "pytorch":
            return {"input_ids": ids, "attention_mask": mask}
        batch = {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}
        return {name: batch[name] for name in self.model.input}

    def fingerprint(self) -> str:
        """Return a sha256 over all weights, in order."""
        return fingerprint(self.framework, self.model)


def read(name: str, framework: str, folder) -> TextEncoder:
    """Return the encoder at ``folder``: a path, or a hub's handle where there is a network.

    The two frameworks differ by about 4e-3 in MiniLM's last layer: KerasHub computes GELU with the
    tanh approximation, the checkpoint was trained with the exact one.
    """
    if framework == "tensorflow":
        import keras_hub

        model = keras_hub.models.Backbone.from_preset(str(folder))
        # KerasHub reads a BERT folder without stripping accents, but the vocabulary was built so:
        # "cliché" would become [UNK].
        strip = {"strip_accents": True} if isinstance(model, keras_hub.models.BertBackbone) else {}
        tokenizer = keras_hub.models.Tokenizer.from_preset(str(folder), **strip)
        depth, width, max_length = model.num_layers, model.hidden_dim, model.max_sequence_length
    else:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = model.config
        depth, width = config.num_hidden_layers, config.hidden_size
        max_length = min(config.max_position_embeddings, tokenizer.model_max_length)
    return TextEncoder(
        name, framework, model, tokenizer, tuple(range(depth + 1)), width, max_length
    )

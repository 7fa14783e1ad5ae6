"""How good is MiniLM fine-tuned on 100 to 5,000 labelled sentences? The recorded run of lesson 07.

    python benchmarks/bert_labels.py --framework pytorch --seconds 150

Each piece is one training: method, number of labels, seed, peak rate, share of warm-up, parts
frozen. Every finished piece is written to benchmarks/results/bert_labels_<framework>.json at once,
and what is there already is skipped: stop it whenever you like and start it again. All pieces are
measured on the same 2,008 sentences. `--list` shows what is left.
"""

import copy
import os
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
from record import RESULTS, as_piece, options, pieces_left, run_pieces

MAX_TOKENS = 64
RATES = {"fine-tuned": 1e-4, "from scratch": 5e-4, "LoRA": 1e-3}
# Few labels get more passes, or there would be too few steps to learn anything.
EPOCHS = {100: 5, 300: 3, 500: 3, 2000: 2, 5000: 2}


@dataclass(frozen=True)
class Piece:
    """One training; `frozen` counts parts from the input: the embeddings, then the layers."""

    method: str
    labels: int
    seed: int
    rate: float
    warmup: float = 0.1
    frozen: int = 0

    @property
    def batch_size(self) -> int:
        return 16 if self.labels < 300 else 32


def plan() -> list[Piece]:
    """Return all pieces, the most wanted first."""
    default = RATES["fine-tuned"]
    pieces = [Piece("fine-tuned", n, s, default) for n in (500, 100, 2000) for s in range(5)]
    for method in ("from scratch", "LoRA"):
        pieces += [Piece(method, 500, s, RATES[method]) for s in range(5)]
    pieces += [Piece("LoRA", 500, s, 3e-3) for s in range(5)]
    pieces += [Piece("fine-tuned", 5000, s, default) for s in range(3)]
    rates = (1e-5, 1e-4, 3e-4, 1e-3)
    pieces += [Piece("fine-tuned", 500, s, r, w) for s in range(3) for r in rates for w in (0, 0.1)]
    frozen = (1, 3, 5, 7)
    pieces += [Piece("fine-tuned", 500, s, default, frozen=k) for s in range(3) for k in frozen]
    pieces += [Piece("fine-tuned", 500, s, default) for s in range(5, 10)]
    scratch = RATES["from scratch"]
    pieces += [Piece("from scratch", n, s, scratch) for n in (100, 2000, 5000) for s in range(3)]
    pieces += [Piece("from scratch", n, s, scratch) for n in (100, 2000) for s in range(3, 5)]
    pieces += [Piece("fine-tuned", 500, s, default, frozen=k) for s in (3, 4) for k in frozen]
    pieces += [Piece("fine-tuned", 5000, s, default) for s in (3, 4)]
    pieces += [Piece("from scratch", 5000, s, scratch) for s in (3, 4)]
    pieces += [Piece("fine-tuned", 300, s, default) for s in range(10)]
    return list(dict.fromkeys(pieces))


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak rate at a step: linear up, linear down to 0."""
    up = max(1, round(warmup * steps))
    return min((step + 1) / up, (steps - step) / max(1, steps - up)) if warmup else 1 - step / steps


class Torch:
    """PyTorch: AdamW, gradient norm clipped at 1, bf16 autocast where the processor has it."""

    def __init__(self, encoder):
        import torch

        self.start = encoder
        torch.set_num_threads(os.cpu_count())

    def train(self, piece: Piece, batches_of, epochs: int) -> tuple:
        import torch
        from torch import nn

        torch.manual_seed(piece.seed)
        encoder = replace(self.start, model=copy.deepcopy(self.start.model))
        if piece.method == "from scratch":
            encoder = replace(encoder, model=type(encoder.model)(encoder.model.config))
        if piece.method == "LoRA":
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
            encoder = replace(encoder, model=get_peft_model(encoder.model, config))
        bert = encoder.model
        if piece.frozen:
            for part in [bert.embeddings, *bert.encoder.layer][: piece.frozen]:
                part.requires_grad_(False)
        head = nn.Linear(encoder.width, 2)
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)

        def logits(inputs):
            states = bert(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(1) / mask.sum(1)
            return head(nn.functional.dropout(pooled, 0.1, bert.training)).float()

        weights = [p for p in (*bert.parameters(), *head.parameters()) if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=piece.rate, weight_decay=0.01, fused=True)
        batches = batches_of(encoder)
        steps = epochs * len(batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_at(step, steps, piece.warmup)
        )
        bert.train()
        for _ in range(epochs):
            for inputs, labels in batches:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.has_bf16()):
                    loss = nn.functional.cross_entropy(logits(inputs), labels)
                loss.backward()
                nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        bert.eval()

        def predict(batches) -> np.ndarray:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.has_bf16()):
                return np.concatenate([logits(inputs).numpy() for inputs, _ in batches])

        return steps, predict

    @staticmethod
    def has_bf16() -> bool:
        from tlcourse.engine import precision_here

        return precision_here() == "bf16"


class Keras:
    """Keras: AdamW, gradient norm clipped at 1, fp32. LoRA is KerasHub's own ``enable_lora``."""

    def __init__(self, encoder):
        self.start = encoder
        self.weights = encoder.model.get_weights()

    def train(self, piece: Piece, batches_of, epochs: int) -> tuple:
        import keras

        keras.backend.clear_session()
        keras.utils.set_random_seed(piece.seed)
        bert = type(self.start.model).from_config(self.start.model.get_config())
        if piece.method != "from scratch":
            bert.set_weights(self.weights)
        if piece.method == "LoRA":
            bert.enable_lora(8)
        embeddings = (
            bert.token_embedding,
            bert.position_embedding,
            bert.segment_embedding,
            bert.embeddings_layer_norm,
        )
        parts = [embeddings, *((layer,) for layer in bert.transformer_layers)]
        for layer in (layer for part in parts[: piece.frozen] for layer in part):
            layer.trainable = False

        states, mask = bert.output["sequence_output"], bert.input["padding_mask"]
        pooled = keras.layers.GlobalAveragePooling1D()(states, mask=mask)
        pooled = keras.layers.Dropout(0.1)(pooled)
        small = keras.initializers.RandomNormal(stddev=0.02)
        model = keras.Model(bert.input, keras.layers.Dense(2, kernel_initializer=small)(pooled))

        batches = batches_of(replace(self.start, model=bert))
        steps = epochs * len(batches)
        optimizer = keras.optimizers.AdamW(piece.rate, weight_decay=0.01, global_clipnorm=1.0)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

        class Schedule(keras.callbacks.Callback):
            step = 0

            def on_train_batch_begin(self, batch, logs=None):
                share = rate_at(self.step, steps, piece.warmup)
                self.model.optimizer.learning_rate = piece.rate * share
                self.step += 1

        model.fit(batches, epochs=epochs, verbose=0, callbacks=[Schedule()])
        return steps, lambda batches: model.predict(batches, verbose=0)


def measure(piece: Piece, trainer, tokens, data, pool, test) -> dict:
    """Train one piece and return its settings, accuracy on the test set and seconds."""
    from tlcourse import finetuning

    rows = np.random.default_rng(piece.seed).permutation(pool)[: piece.labels]

    def batches_of(encoder):
        return finetuning.text_batches(
            encoder, tokens, data.labels, rows=rows, batch_size=piece.batch_size, seed=piece.seed
        )

    began = time.perf_counter()
    steps, predict = trainer.train(piece, batches_of, EPOCHS[piece.labels])
    seconds = time.perf_counter() - began
    # Sorted by length already, so that the predictions come back in this order.
    test = test[np.argsort([len(tokens[row]) for row in test], kind="stable")]
    logits = predict(
        finetuning.text_batches(trainer.start, tokens, data.labels, rows=test, batch_size=64)
    )
    accuracy = float(np.mean(logits.argmax(1) == data.labels[test]))
    found = {"accuracy": round(accuracy, 5), "seconds": round(seconds, 1), "steps": steps}
    return {**asdict(piece), **found}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--framework", choices=("pytorch", "tensorflow"), required=True)
    given = parser.parse_args()

    path = RESULTS / f"bert_labels_{given.framework}.json"
    left = pieces_left(path, plan(), as_piece(Piece), given.list)
    if not left:
        return

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from tlcourse import backbones, datasets

    data = datasets.sentiment("movie")
    pool, test = data.split(test_size=0.2, seed=0)
    encoder = backbones.load("minilm", given.framework)
    tokens = encoder.tokenize(data.texts, MAX_TOKENS)
    trainer = (Torch if given.framework == "pytorch" else Keras)(encoder)
    header = {
        "command": f"python benchmarks/bert_labels.py --framework {given.framework}",
        "test_sentences": len(test),
    }
    run_pieces(
        path,
        left,
        lambda piece: measure(piece, trainer, tokens, data, pool, test),
        given.seconds,
        header,
    )


if __name__ == "__main__":
    main()

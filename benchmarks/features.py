"""How many images a second become features, and what are those features worth?

Four engines turn 2,624 photographs of solar cells into 1,280 features of EfficientNet-Lite0,
each from the raw pixels to an array, resizing and the engine's own set-up included:

    keras       model.predict, as a Keras user writes it
    pytorch     a loop over batches in fp32, as a PyTorch user writes it
    openvino    the reference: the converted network in an asynchronous queue at its own defaults
    tlcourse    features.extract, without its cache

The probe (standardised logistic regression, whole blocks held out, five folds) says what each
engine's features are worth. Rounds are interleaved; the median round counts.

Example: python benchmarks/features.py --rounds 3 --json
"""

import argparse
import json
import os
import sys
import time
from statistics import median

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import record
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlcourse import backbones, datasets, features
from tlcourse.backbones.image import resize

BATCH = 32


def with_keras(images):
    import keras

    backbone = backbones.load("efficientnet-lite0", "tensorflow")
    trunk = keras.Model(backbone.model.input, backbone.model.get_layer("pool").output)
    yield
    yield trunk.predict(backbone.preprocess(images), batch_size=BATCH, verbose=0)


def with_pytorch(images):
    import torch

    backbone = backbones.load("efficientnet-lite0", "pytorch")
    trunk = backbone.model[:-1]
    yield
    with torch.inference_mode():
        starts = range(0, len(images), BATCH)
        batches = (backbone.preprocess(images[start : start + BATCH]) for start in starts)
        yield torch.cat([trunk(batch) for batch in batches]).numpy()


def with_openvino(images):
    import openvino
    import torch

    backbone = backbones.load("efficientnet-lite0", "pytorch")
    trunk = backbone.model[:-1]
    yield
    size = backbone.input_size
    example = torch.zeros(1, 3, size, size)
    model = openvino.convert_model(trunk, example_input=example, input=[-1, 3, size, size])
    compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    pooled = np.empty((len(images), backbone.model.classifier.in_features), np.float32)
    queue = openvino.AsyncInferQueue(compiled)

    def keep(request, rows):
        pooled[rows] = request.get_output_tensor().data

    queue.set_callback(keep)
    step = 8  # the best of 1, 8 and 32 here
    for start in range(0, len(images), step):
        rows = slice(start, min(start + step, len(images)))
        queue.start_async({0: backbone.preprocess(images[rows]).numpy()}, rows)
    queue.wait_all()
    yield pooled


def with_tlcourse(images):
    backbone = backbones.load("efficientnet-lite0", "pytorch")
    yield
    yield features.extract(backbone, images, cache=False)["head"]


ENGINES = {
    "keras": with_keras,
    "pytorch": with_pytorch,
    "openvino": with_openvino,
    "tlcourse": with_tlcourse,
}


def timed(engine, images) -> tuple[float, np.ndarray]:
    """Return seconds and features; loading the weights is not counted, it is the same for all."""
    steps = engine(images)
    next(steps)
    started = time.perf_counter()
    pooled = next(steps)
    return time.perf_counter() - started, pooled


def probe_accuracy(data, pooled) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
    scores = [
        probe.fit(pooled[train], data.labels[train]).score(pooled[test], data.labels[test])
        for train, test in data.folds("block", 5)
    ]
    return float(np.mean(scores))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=None, help="only the first N images")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no more")
    parser.add_argument("--record", action="store_true", help="keep it in benchmarks/results/")
    arguments = parser.parse_args()

    data = datasets.solar_cells()
    if arguments.images:
        data = data.subset(np.arange(arguments.images))
    resize(data.images[:1], 224)
    seconds = {name: [] for name in ENGINES}
    pooled = {}
    for number in range(arguments.rounds):
        for name, engine in ENGINES.items():
            took, pooled[name] = timed(engine, data.images)
            seconds[name].append(took)
            print(f"round {number + 1}, {name}: {len(data) / took:.0f} images/s", file=sys.stderr)
    speed = {name: len(data) / median(rounds) for name, rounds in seconds.items()}
    accuracy = {name: probe_accuracy(data, array) for name, array in pooled.items()}
    summary = {
        "ratio_to_fastest": round(speed["tlcourse"] / max(speed.values()), 3),
        "accuracy_gap_points": round(100 * (max(accuracy.values()) - accuracy["tlcourse"]), 2),
    }
    if arguments.record:
        details = {
            "images": len(data),
            "images_per_second": {name: round(value, 1) for name, value in speed.items()},
            "seconds": {name: [round(s, 2) for s in rounds] for name, rounds in seconds.items()},
            "block_accuracy": {name: round(value, 4) for name, value in accuracy.items()},
        }
        record.write("features", summary | details)
    if arguments.json:
        print(json.dumps(summary))
        return
    print(f"{'engine':10} {'images/s':>9} {'probe accuracy':>15}")
    for name in ENGINES:
        print(f"{name:10} {speed[name]:9.0f} {accuracy[name]:15.3f}")
    print(summary)


if __name__ == "__main__":
    main()

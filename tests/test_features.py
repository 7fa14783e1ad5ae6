"""Features are right in every framework, kept whole or not at all, and found again."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from tlcourse import assets, backbones, datasets, features


@pytest.fixture(scope="module")
def pictures():
    """Forty pictograms: uint8 (40, 224, 224, 3)."""
    return datasets.pictograms("color").images[::14][:40]


@pytest.fixture(scope="module")
def texts():
    return datasets.sentiment("movie").texts[:60]


@pytest.fixture(scope="module", params=backbones.FRAMEWORKS)
def backbone(request):
    return backbones.load("efficientnet-lite0", request.param)


@pytest.fixture(scope="module", params=backbones.FRAMEWORKS)
def encoder(request):
    return backbones.load("minilm", request.param)


@pytest.fixture
def cold(monkeypatch, tmp_path):
    """An empty cache of our own for features; weights and data stay where they are."""
    monkeypatch.setattr(features, "cache_dir", lambda: tmp_path)
    return tmp_path / "features"


def trunk_outputs(backbone, images, cut):
    """Return the framework's own answer, channels last."""
    trunk, _ = backbone.split(cut)
    batch = backbone.preprocess(images)
    if backbone.framework == "tensorflow":
        return np.asarray(trunk(batch, training=False))
    import torch

    with torch.inference_mode():
        return trunk(batch).permute(0, 2, 3, 1).numpy()


def test_features_are_the_frameworks_own_activations(backbone, pictures):
    cuts = ("block5", "head")
    whole = features.extract(backbone, pictures, cuts, pool=False, precision="fp32", cache=False)
    pooled = features.extract(backbone, pictures, cuts, precision="fp32", cache=False)
    for cut in cuts:
        expected = trunk_outputs(backbone, pictures, cut)
        assert np.abs(whole[cut] - expected).max() < 1e-3 * np.abs(expected).max()
        assert np.abs(pooled[cut] - expected.mean((1, 2))).max() < 1e-4


def test_a_network_trained_on_blue_green_red_gets_its_channels_in_that_order(backbone, pictures):
    colours = {"mean": (123.68, 116.779, 103.939), "std": (58.4, 57.1, 57.4)}
    swapped = replace(backbone, scaling=backbones.image.Scaling(**colours, bgr=True))
    got = features.extract(swapped, pictures, precision="fp32", cache=False)["head"]
    expected = trunk_outputs(swapped, pictures, "head").mean((1, 2))
    assert np.abs(got - expected).max() < 1e-4
    straight = replace(backbone, scaling=backbones.image.Scaling(**colours))
    other = features.extract(straight, pictures, precision="fp32", cache=False)["head"]
    assert np.abs(got - other).max() > 0.1


def test_all_cut_points_at_once_are_each_under_their_own_name(backbone, pictures):
    few = pictures[:8]
    got = features.extract(backbone, few, backbone.cut_points, precision="fp32", cache=False)
    for cut in backbone.cut_points:
        expected = trunk_outputs(backbone, few, cut).mean((1, 2))
        assert got[cut].shape == expected.shape
        assert np.abs(got[cut] - expected).max() < 1e-3 * max(1, np.abs(expected).max())


def test_both_frameworks_give_the_same_features(pictures):
    ours, theirs = (
        features.extract(
            backbones.load("efficientnet-lite0", framework),
            pictures,
            precision="fp32",
            cache=False,
        )["head"]
        for framework in backbones.FRAMEWORKS
    )
    assert np.abs(ours - theirs).max() < 1e-4


def test_bf16_costs_less_than_half_a_percent_of_direction(pictures):
    backbone = backbones.load("efficientnet-lite0", "pytorch")
    exact, fast = (
        features.extract(backbone, pictures, precision=precision, cache=False)["head"]
        for precision in ("fp32", "bf16")
    )
    cosine = (exact * fast).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() > 0.995


def test_any_size_grey_or_colour_goes_in(backbone):
    grey = np.random.default_rng(0).integers(0, 256, (3, 50, 70), np.uint8)
    got = features.extract(backbone, grey, precision="fp32", cache=False)["head"]
    colour = np.repeat(grey[..., None], 3, axis=-1)
    assert np.array_equal(
        got, features.extract(backbone, colour, precision="fp32", cache=False)["head"]
    )


def test_the_second_time_is_read_from_disk(cold, pictures, monkeypatch):
    backbone = backbones.load("efficientnet-lite0", "pytorch")
    first = features.extract(backbone, pictures, ("block5", "head"))

    def refuse(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(features.engine, "for_images", refuse)
    again = features.extract(backbone, pictures, ("head", "block5"))
    assert all(np.array_equal(first[cut], again[cut]) for cut in first)
    with pytest.raises(AssertionError, match="computed again"):
        features.extract(backbone, pictures[1:], ("head",))


def test_new_weights_are_never_answered_with_old_features(cold, pictures):
    import torch

    backbone = backbones.load("efficientnet-lite0", "pytorch")
    before = features.extract(backbone, pictures)["head"]
    with torch.no_grad():
        backbone.model.stem.conv.weight.mul_(1.5)
    assert not np.array_equal(before, features.extract(backbone, pictures)["head"])


def test_a_damaged_file_is_named_removed_and_computed_again(cold, pictures, capsys):
    backbone = backbones.load("efficientnet-lite0", "pytorch")
    first = features.extract(backbone, pictures)["head"]
    (kept,) = cold.glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:1000])
    assert np.array_equal(first, features.extract(backbone, pictures)["head"])
    assert kept.name in capsys.readouterr().err


EXTRACT = """
from tlcourse import backbones, datasets, features
images = datasets.pictograms("color").images
print("start", flush=True)
features.extract(backbones.load("efficientnet-lite0", "pytorch"), images, ("block5", "head"))
"""


def start(folder, code=EXTRACT, **options):
    """Start an extraction in a process of its own whose features go to ``folder``."""
    elsewhere = f"features.cache_dir = lambda: pathlib.Path({str(folder)!r})"
    patch = f"import pathlib; from tlcourse import features; {elsewhere}\n"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", patch + code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(folder):
    """Return the feature files that have their names."""
    return [path for path in folder.glob("*.npy") if not path.name.startswith(assets.PART)]


def wait_for(pattern, folder, seconds=60):
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} appeared"
        time.sleep(0.02)


def test_killed_in_the_middle_leaves_nothing_that_is_taken_for_good(cold):
    process = start(cold.parent)
    wait_for(f"{assets.PART}*", cold)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not finished(cold)
    again = start(cold.parent)
    assert again.wait(120) == 0, again.communicate()[1]
    assert len(finished(cold)) == 2
    assert not list(cold.glob(f"{assets.PART}*"))


def test_two_processes_at_once_compute_once_and_agree(cold):
    both = [start(cold.parent), start(cold.parent)]
    assert [process.wait(120) for process in both] == [0, 0]
    kept = finished(cold)
    assert len(kept) == 2 and not list(cold.glob(f"{assets.PART}*"))
    assert all(np.isfinite(np.load(path)).all() for path in kept)


def test_a_full_disk_is_met_by_one_sentence(cold):
    limit = 300_000  # bytes a file may have: less than the features need

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = start(cold.parent, preexec_fn=small_files)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "free some space, set TLCOURSE_CACHE to another folder" in errors.splitlines()[-1]
    assert not finished(cold) and not list(cold.glob(f"{assets.PART}*"))


def peak_of(count, queue):
    """Put the peak memory in MB of extracting from ``count`` pictures into the queue."""
    backbone = backbones.load("efficientnet-lite0", "pytorch")
    images = np.broadcast_to(np.zeros((1, 224, 224, 3), np.uint8), (count, 224, 224, 3))
    run = features.engine.for_images(backbone, ("block5",), False, "fp32")
    for start in range(0, count, 8):
        list(run([{"images": images[start : start + 8]}]))
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def test_memory_is_bounded_by_the_batch(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    peaks = []
    for count in (16, 480):
        queue = context.Queue()
        process = context.Process(target=peak_of, args=(count, queue))
        process.start()
        peaks.append(queue.get(timeout=120))
        process.join()
    # Held in memory, the 464 pictures more would be 58 MB of activations at this cut.
    assert peaks[1] - peaks[0] < 30


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(cuts=("block99",)), "has no cut point 'block99'; it has stem, block1"),
        (dict(precision="fp8"), "precision must be auto, bf16 or fp32"),
    ],
)
def test_wrong_arguments_are_met_by_what_is_known(arguments, sentence, pictures):
    backbone = backbones.load("efficientnet-lite0", "pytorch")
    with pytest.raises(ValueError, match=sentence):
        features.extract(backbone, pictures, **arguments)
    with pytest.raises(ValueError, match="images is empty"):
        features.extract(backbone, pictures[:0])


# --- texts --------------------------------------------------------------------------------------


def test_sentence_features_are_the_masked_mean_in_the_callers_order(encoder, texts):
    got = features.extract_text(encoder, texts, (0, 6), precision="fp32", cache=False)
    tokens = encoder.tokenize(texts)
    for row in (0, 7, 59):
        batch = encoder.pad([tokens[row]])
        if encoder.framework == "tensorflow":
            states = np.asarray(encoder.model(batch, training=False)["sequence_output"])[0]
        else:
            import torch

            with torch.inference_mode():
                states = (
                    encoder.model(**{key: torch.from_numpy(value) for key, value in batch.items()})
                    .last_hidden_state[0]
                    .numpy()
                )
        assert np.abs(got[6][row] - states.mean(0)).max() < 1e-4
    assert got[0].shape == (60, 384)


def test_only_the_mean_without_a_mask_depends_on_batch_mates(encoder):
    short, long = "Good.", "word " * 60
    for pool, alone_is_different in (("mean", False), ("cls", False), ("mean_no_mask", True)):
        extract = features.extract_text
        alone = extract(encoder, [short], pool=pool, precision="fp32", cache=False)[6][0]
        beside = extract(encoder, [short, long], pool=pool, precision="fp32", cache=False)[6][0]
        assert bool(np.abs(alone - beside).max() > 0.01) == alone_is_different


def test_text_features_are_found_again(cold, encoder, texts, monkeypatch):
    first = features.extract_text(encoder, texts)[6]
    monkeypatch.setattr(features.engine, "for_texts", None)
    assert np.array_equal(first, features.extract_text(encoder, texts)[6])


def test_wrong_layers_and_pools_are_met_by_what_is_known(encoder, texts):
    with pytest.raises(ValueError, match=r"has no layer 7; it has 0 \(the embeddings\) to 6"):
        features.extract_text(encoder, texts, layers=(7,))
    with pytest.raises(ValueError, match="pool must be one of mean, cls, mean_no_mask"):
        features.extract_text(encoder, texts, pool="max", cache=False)
    with pytest.raises(ValueError, match="texts is empty"):
        features.extract_text(encoder, [])

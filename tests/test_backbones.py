"""The same weights in two frameworks are the same function, and each knows its preprocessing."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from tlcourse import backbones
from tlcourse.backbones.hub import HUB, HubError
from tlcourse.backbones.spec import LITE

LITES = tuple(LITE)
DAISY = 985


@pytest.fixture(scope="module")
def photographs():
    """A Chinese temple and a flower: uint8 (2, 427, 640, 3)."""
    return np.stack(load_sample_images().images)


@pytest.fixture(scope="module")
def load():
    """Load each model once for the whole module."""
    loaded = {}

    def get(name, framework):
        if (name, framework) not in loaded:
            loaded[name, framework] = backbones.load(name, framework)
        return loaded[name, framework]

    return get


def run(backbone, model, batch):
    """Return the model's outputs for native inputs as an array."""
    if backbone.framework == "tensorflow":
        return np.asarray(model(batch, training=False))
    import torch

    with torch.inference_mode():
        return model(batch).numpy()


@pytest.mark.parametrize("name", LITES)
def test_keras_and_pytorch_give_the_same_logits(name, load, photographs):
    keras, torch = load(name, "tensorflow"), load(name, "pytorch")
    ours = run(keras, keras.model, keras.preprocess(photographs))
    theirs = run(torch, torch.model, torch.preprocess(photographs))
    assert ours.shape == (2, 1000)
    assert np.abs(ours - theirs).max() < 1e-4


def test_the_flower_is_a_daisy(load, photographs):
    backbone = load("efficientnet-lite0", "pytorch")
    logits = run(backbone, backbone.model, backbone.preprocess(photographs))
    assert logits[1].argmax() == DAISY


def test_lite0_has_the_published_number_of_parameters(load):
    # Tan and Le's Lite0: 4.65 M parameters with the 1000-class head.
    counted = sum(p.numel() for p in load("efficientnet-lite0", "pytorch").model.parameters())
    assert round(counted / 1e6, 2) == 4.65


@pytest.mark.parametrize("framework", backbones.FRAMEWORKS)
@pytest.mark.parametrize("cut", ["stem", "block5", "block11", "head"])
def test_trunk_then_top_is_the_whole_network(framework, cut, load, photographs):
    backbone = load("efficientnet-lite0", framework)
    trunk, top = backbone.split(cut)
    batch = backbone.preprocess(photographs)
    activations = run(backbone, trunk, batch)
    if framework == "pytorch":
        import torch

        activations = torch.from_numpy(activations)
    whole = run(backbone, backbone.model, batch)
    assert np.array_equal(run(backbone, top, activations), whole)


@pytest.mark.parametrize("framework", backbones.FRAMEWORKS)
def test_grey_pictures_become_three_equal_channels(framework, load, photographs):
    backbone = load("efficientnet-lite0", framework)
    batch = np.asarray(backbone.preprocess(photographs[..., 0]))
    axis = 3 if framework == "tensorflow" else 1
    assert batch.shape[axis] == 3
    assert np.ptp(batch, axis=axis).max() == 0


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 224, 224, 3), np.float32),
        np.zeros((2, 3, 224, 224), np.uint8),
        np.zeros((224, 224), np.uint8),
    ],
)
def test_a_wrong_shape_or_type_is_met_by_the_expected_one(images, load):
    with pytest.raises(ValueError, match=r"uint8 with shape \(N, H, W\) or \(N, H, W, 3\)"):
        load("efficientnet-lite0", "pytorch").preprocess(images)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"efficientnet-lite0.*minilm.*resnet50.*roberta-base"):
        backbones.load("resnet51", "pytorch")
    with pytest.raises(ValueError, match="tensorflow, pytorch"):
        backbones.load("efficientnet-lite0", "jax")
    with pytest.raises(ValueError, match="block16, head"):
        backbones.load("efficientnet-lite0", "pytorch").split("block17")


def test_other_weights_have_another_fingerprint():
    import torch

    backbone = backbones.load("efficientnet-lite0", "pytorch")
    before = backbone.fingerprint()
    with torch.no_grad():
        backbone.model.classifier.bias[0] += 1
    assert backbone.fingerprint() != before


# --- BERT ---------------------------------------------------------------------------------------

SENTENCES = ["A cliché of a film, but a charming one.", "Wonderful!", "It's not bad; it's 9.5/10."]


def test_both_tokenizers_give_the_same_ids_accents_included(load):
    keras, torch = load("minilm", "tensorflow"), load("minilm", "pytorch")
    for ours, theirs in zip(keras.tokenize(SENTENCES), torch.tokenize(SENTENCES), strict=True):
        assert np.array_equal(ours, theirs)
        assert (ours[0], ours[-1]) == (101, 102)
        assert 100 not in ours  # [UNK]


def last_states(encoder, tokens):
    batch = encoder.pad(tokens)
    if encoder.framework == "tensorflow":
        return np.asarray(encoder.model(batch, training=False)["sequence_output"])
    import torch

    with torch.inference_mode():
        return encoder.model(
            **{k: torch.from_numpy(v) for k, v in batch.items()}
        ).last_hidden_state.numpy()


def real(encoder, tokens):
    return encoder.pad(tokens)[
        "padding_mask" if encoder.framework == "tensorflow" else "attention_mask"
    ].astype(bool)


def test_minilm_differs_between_the_frameworks_only_by_the_shape_of_gelu(load):
    import keras
    import torch

    ours, theirs = load("minilm", "tensorflow"), backbones.load("minilm", "pytorch")
    tokens = theirs.tokenize(SENTENCES)
    mask = real(theirs, tokens)
    kerashub = last_states(ours, tokens)[mask]
    exact = last_states(theirs, tokens)[mask]
    assert 1e-3 < np.abs(kerashub - exact).max() < 1e-2
    for layer in theirs.model.encoder.layer:
        layer.intermediate.intermediate_act_fn = torch.nn.GELU(approximate="tanh")
    assert np.abs(kerashub - last_states(theirs, tokens)[mask]).max() < 1e-4
    assert keras.config.backend() == "tensorflow"


def test_long_texts_are_cut_with_their_last_special_token_kept(load):
    for framework in backbones.FRAMEWORKS:
        (row,) = load("minilm", framework).tokenize(["word " * 2000], max_length=16)
        assert len(row) == 16 and row[-1] == 102


def test_texts_must_be_strings(load):
    with pytest.raises(ValueError, match="sequence of strings"):
        load("minilm", "pytorch").tokenize("one string")
    with pytest.raises(ValueError, match="sequence of strings"):
        load("minilm", "pytorch").tokenize(["fine", None])


# --- larger models from hubs --------------------------------------------------------------------


def test_every_hub_model_names_an_installed_substitute():
    for entry in HUB.values():
        assert entry.instead in backbones.INSTALLED


@pytest.mark.parametrize(
    ("name", "framework"),
    [("resnet50", "pytorch"), ("roberta-base", "pytorch"), ("bert-base-uncased", "tensorflow")],
)
def test_without_a_network_one_sentence_says_what_to_use(name, framework, tmp_path):
    code = f"from tlcourse import backbones; backbones.load({name!r}, {framework!r})"
    # Port 9 answers nobody: the hub is out of reach, whatever this machine's network is.
    blocked = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTPS_PROXY")}
    homes = {name: str(tmp_path) for name in ("HF_HOME", "KERAS_HOME", "KAGGLEHUB_CACHE")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | blocked | homes | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    sentence = done.stderr.strip().splitlines()[-1]
    assert f"{name} ({HUB[name].megabytes} MB)" in sentence
    assert f'load("{HUB[name].instead}")' in sentence


def test_vgg16_has_no_pytorch_build_and_says_so():
    with pytest.raises(HubError, match=r'vgg16.*load\("vgg16", "tensorflow"\)'):
        backbones.load("vgg16", "pytorch")


def test_a_keras_application_is_read_from_a_weight_file(tmp_path, photographs):
    import keras

    made = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    path = tmp_path / "mobilenetv2.weights.h5"
    made.save_weights(path)
    backbone = backbones.load("mobilenetv2", "tensorflow", source=path)
    batch = backbone.preprocess(photographs)
    assert batch.min() >= -1 and batch.max() <= 1
    assert np.array_equal(made(batch).numpy(), backbone.model(batch).numpy())
    assert "block_5_add" in backbone.cut_points


def test_a_transformers_classifier_is_read_from_a_folder(tmp_path, photographs):
    import torch
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    from tlcourse import features

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    made = ResNetForImageClassification(config).eval()
    made.save_pretrained(tmp_path)
    ConvNextImageProcessor().save_pretrained(tmp_path)
    backbone = backbones.load("resnet50", "pytorch", source=tmp_path)
    with torch.inference_mode():
        states = made(backbone.preprocess(photographs), output_hidden_states=True).hidden_states
    assert len(backbone.cut_points) == 2
    read = features.extract(
        backbone, photographs, cuts=backbone.cut_points, precision="fp32", cache=False
    )
    for cut, state in zip(backbone.cut_points, states[1:], strict=True):
        assert np.allclose(read[cut], state.mean((2, 3)).numpy(), atol=1e-4)


@pytest.mark.parametrize("framework", backbones.FRAMEWORKS)
def test_a_small_bert_folder_is_read_as_bert_base(framework, tmp_path):
    from transformers import BertConfig, BertModel

    from tlcourse import assets

    vocabulary = (assets.locate("minilm") / "vocab.txt").read_text()
    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text(vocabulary)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((assets.locate("minilm") / name).read_bytes())
    encoder = backbones.load("bert-base-uncased", framework, source=tmp_path)
    assert (encoder.layers, encoder.width) == ((0, 1, 2), 16)
    assert [len(row) for row in encoder.tokenize(["good", "very good"])] == [3, 4]


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(HubError, match=f"roberta-base cannot be read from {tmp_path}"):
        backbones.load("roberta-base", "pytorch", source=tmp_path)

"""Forward passes at full speed: OpenVINO on a processor, the framework itself on an accelerator.

An engine takes batches (dicts of NumPy arrays) and gives, in the same order, a tuple of arrays a
batch. Its memory is a few batches, whatever the number of images.
"""

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tlcourse.backbones import Backbone, TextEncoder

Batch = dict[str, np.ndarray]
Engine = Callable[[Iterable[Batch]], Iterator[tuple[np.ndarray, ...]]]

POOLS = ("mean", "cls", "mean_no_mask")


def precision_here(precision: str = "auto") -> str:
    """Return "bf16" or "fp32"; for "auto" bf16 where the hardware computes in it."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision must be auto, bf16 or fp32; got {precision!r}.")
    if precision != "auto":
        return precision
    if _on_accelerator():
        return "bf16"
    import openvino

    return (
        "bf16"
        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        else "fp32"
    )


def for_images(backbone: Backbone, cuts: tuple[str, ...], pool: bool, precision: str) -> Engine:
    """Return an engine from {"images": uint8 (N, size, size, 3)} to features at each cut.

    Features are channels last, (N, h, w, C), or with ``pool`` averaged over the image, (N, C).
    """
    taps = _torch_image_taps if backbone.framework == "pytorch" else _keras_image_taps
    network = taps(backbone, cuts, pool)
    if _on_accelerator():
        return _native(backbone.framework, network, precision, backbone.preprocess)
    size = backbone.input_size
    if backbone.framework == "pytorch":
        model = _convert_torch(network, {"images": np.zeros((1, 3, size, size), np.float32)})
    else:
        model = _convert_keras(network, {"images": ((None, size, size, 3), "float32")})
    engine = _openvino(_uint8_input(model, backbone), precision)
    if not backbone.scaling.bgr:
        return engine
    # Swapped here: OpenVINO's own reverse_channels is ignored where it converts NHWC to NCHW.
    return lambda batches: engine(
        {"images": np.ascontiguousarray(batch["images"][..., ::-1])} for batch in batches
    )


def for_texts(encoder: TextEncoder, layers: tuple[int, ...], pool: str, precision: str) -> Engine:
    """Return an engine from ``encoder.pad(tokens)`` to pooled features (N, width) at each layer."""
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}.")
    taps = _torch_text_taps if encoder.framework == "pytorch" else _keras_text_taps
    network = taps(encoder, layers)
    example = encoder.pad(encoder.tokenize(["one text", "and a second, longer one"]))
    mask = "attention_mask" if encoder.framework == "pytorch" else "padding_mask"
    if _on_accelerator():
        engine = _native(encoder.framework, network, precision)
    elif encoder.framework == "pytorch":
        weights = _pooling_weights(example[mask], pool)
        model = _convert_torch(network, {"weights": weights, **example}, dynamic=(0, 1))
        engine = _openvino(model, precision)
    else:
        signature = {name: ((None, None), "int32") for name in example}
        model = _convert_keras(network, {"weights": ((None, None), "float32"), **signature})
        engine = _openvino(model, precision)

    def run(batches):
        return engine({"weights": _pooling_weights(b[mask], pool), **b} for b in batches)

    return run


def _on_accelerator() -> bool:
    return os.environ.get("TLCOURSE_DEVICE", "cpu") != "cpu"


# --- what is read where, natively -------------------------------------------------------------


def _torch_image_taps(backbone: Backbone, cuts, pool):
    import torch

    class Taps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = backbone.model

        def forward(self, images):
            read = {}
            hooks = [
                self.model.get_submodule(cut).register_forward_hook(
                    lambda module, args, output, cut=cut: read.__setitem__(cut, output)
                )
                for cut in cuts
            ]
            try:
                self.model(images)
            finally:
                for hook in hooks:
                    hook.remove()
            if pool:
                return tuple(read[cut].mean(dim=(2, 3)) for cut in cuts)
            return tuple(read[cut].permute(0, 2, 3, 1) for cut in cuts)

    return Taps().eval()


def _keras_image_taps(backbone: Backbone, cuts, pool):
    import keras

    outputs = [backbone.model.get_layer(cut).output for cut in cuts]
    if pool:
        outputs = [keras.ops.mean(output, axis=(1, 2)) for output in outputs]
    network = keras.Model(backbone.model.input, outputs)
    return lambda images: _tuple(network(images, training=False))


def _torch_text_taps(encoder: TextEncoder, layers):
    import torch

    class Taps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = encoder.model

        def forward(self, weights, input_ids, attention_mask):
            states = self.model(
                input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
            ).hidden_states
            return tuple((weights[:, None] @ states[layer])[:, 0] for layer in layers)

    return Taps().eval()


def _keras_text_taps(encoder: TextEncoder, layers):
    import keras

    names = ["embeddings_dropout", *(f"transformer_layer_{i}" for i in encoder.layers[:-1])]
    states = [encoder.model.get_layer(names[layer]).output for layer in layers]
    network = keras.Model(encoder.model.input, states)

    def run(weights, **batch):
        read = _tuple(network(batch, training=False))
        return tuple((weights[:, None] @ states)[:, 0] for states in read)

    return run


def _tuple(outputs) -> tuple:
    """Undo what Keras does to a list of one output."""
    return tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)


def _pooling_weights(mask: np.ndarray, pool: str) -> np.ndarray:
    """Return float32 (N, length): with these weights the sum over tokens is the pooled vector."""
    if pool == "cls":
        weights = np.zeros(mask.shape)
        weights[:, 0] = 1
    else:
        weights = mask if pool == "mean" else np.ones(mask.shape)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


# --- OpenVINO ---------------------------------------------------------------------------------


def _convert_torch(network, example: Batch, dynamic=(0,)):
    import openvino
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    shapes = {
        name: [-1 if axis in dynamic else size for axis, size in enumerate(array.shape)]
        for name, array in example.items()
    }
    with warnings.catch_warnings(), torch.inference_mode():
        # Tracing warns about every Python number it freezes; the shapes here are meant to be fixed.
        warnings.simplefilter("ignore")
        return openvino.convert_model(network, example_input=tensors, input=shapes)


def _convert_keras(network, signature):
    import openvino
    import tensorflow as tf

    specs = {name: tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in signature.items()}
    model = openvino.convert_model(tf.function(network).get_concrete_function(**specs))
    for port in model.inputs:  # TensorFlow says "token_ids:0"
        port.get_tensor().set_names({port.any_name.removesuffix(":0")})
    # OpenVINO sorts the outputs as text, Identity_10 before Identity_2: put them back in order.
    results = sorted(model.get_results(), key=_output_number)
    return openvino.Model(results, model.get_parameters())


def _output_number(result) -> int:
    """Return which output of the traced function this is: Identity:0 is 0, Identity_7:0 is 7."""
    found = (re.fullmatch(r"Identity(?:_(\d+))?:0", name) for name in result.output(0).names)
    return next(int(match[1] or 0) for match in found if match)


def _uint8_input(model, backbone: Backbone):
    """Put the model's own scaling into the graph, so that bytes go in, in the model's order."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    images = steps.input()
    images.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    native = "NCHW" if backbone.framework == "pytorch" else "NHWC"
    images.model().set_layout(openvino.Layout(native))
    scaling, order = backbone.scaling, -1 if backbone.scaling.bgr else 1
    images.preprocess().convert_element_type(openvino.Type.f32)
    images.preprocess().mean(list(scaling.mean)[::order]).scale(list(scaling.std)[::order])
    return steps.build()


def _openvino(model, precision: str) -> Engine:
    import openvino

    config = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision],
    }
    if threads := os.environ.get("OMP_NUM_THREADS"):
        config["INFERENCE_NUM_THREADS"] = int(threads)
    compiled = openvino.Core().compile_model(model, "CPU", config)
    parallel = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def run(batches):
        idle = [compiled.create_infer_request() for _ in range(parallel)]
        running = deque()

        def finish():
            request = running.popleft()
            request.wait()
            idle.append(request)
            return tuple(np.array(output.data) for output in request.output_tensors)

        for batch in batches:
            if not idle:
                yield finish()
            request = idle.pop()
            request.start_async(batch)
            running.append(request)
        while running:
            yield finish()

    return run


# --- the framework itself, on an accelerator --------------------------------------------------


def _native(framework: str, network, precision: str, preprocess=None) -> Engine:
    if framework == "tensorflow":
        import tensorflow as tf

        # Keras fixes a layer's precision when it builds it: the model computes as it was loaded.
        function = tf.function(network, reduce_retracing=True)

        def run(batches):
            for batch in batches:
                inputs = {"images": preprocess(batch["images"])} if preprocess else batch
                yield tuple(output.numpy() for output in function(**inputs))

        return run

    import torch

    device = os.environ.get("TLCOURSE_DEVICE", "cpu")
    network = network.to(device)

    def run_torch(batches):
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"),
        ):
            for batch in batches:
                if preprocess:
                    batch = {"images": preprocess(batch["images"])}
                tensors = {name: torch.as_tensor(array).to(device) for name, array in batch.items()}
                yield tuple(output.float().cpu().numpy() for output in network(**tensors))

    return run_torch

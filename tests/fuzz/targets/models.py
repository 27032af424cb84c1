"""Weights, graphs, and the settings of models and of their training."""

import io
import json
from pathlib import Path

from tests.fuzz.mutations import mutate_json, mutate_text
from tests.fuzz.targets.registry import Prepared, file_target, target


@target
def weights_pickles(folder: Path) -> Prepared:
    import numpy as np
    import torch

    from d2vpr_hf.convert.weights_file import read_weights

    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2, dtype=torch.float16)}
    contents = [{"model_state_dict": weights, "recalls": np.array([1.0]), "epoch": 3}, weights]
    seeds = []
    for number, content in enumerate(contents):
        torch.save(content, folder / "seed.pth", _use_new_zipfile_serialization=number == 0)
        seeds.append((folder / "seed.pth").read_bytes())
    return file_target(folder / "weights.pth", seeds, read_weights)


@target
def weights_safetensors(folder: Path) -> Prepared:
    import torch
    from safetensors.torch import save

    from d2vpr_hf.convert.weights_file import read_weights

    seeds = [save({"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2, dtype=torch.bfloat16)})]
    return file_target(folder / "weights.safetensors", seeds, read_weights)


@target
def mobilenet_graphs(folder: Path) -> Prepared:
    from d2vpr_hf.convert.mobilenet_v2 import is_mobilenet_v2

    return file_target(folder / "graph.pb", [_onnx_graph()], is_mobilenet_v2)


@target
def model_configs(folder: Path) -> Prepared:
    from d2vpr_hf.modeling import D2VPRConfig
    from d2vpr_hf.pretrained.loading import load_config

    D2VPRConfig().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not read")
    seeds = [(folder / "config.json").read_bytes()]
    return file_target(folder / "config.json", seeds, lambda path: load_config(path.parent), (ValueError, OSError), mutate_json)


@target
def encoder_cards(folder: Path) -> Prepared:
    from d2vpr_hf.model_info.encoder_card import CARD_FILE, EncoderCard, read_card
    from d2vpr_hf.model_info.preprocessing import Preprocessing

    steps = Preprocessing(size=(56, 56))
    card = EncoderCard(
        "A model", 8, steps, license="mit", num_parameters=100, graph="model.onnx", sha256={"model.onnx": "0" * 64}
    )
    return file_target(
        folder / CARD_FILE, [json.dumps(card.to_dict()).encode()], lambda path: read_card(path.parent), mutate=mutate_json
    )


@target
def preprocessor_files(folder: Path) -> Prepared:
    from d2vpr_hf.model_info.preprocessor_files import read_preprocessing, read_processor_file

    settings = {
        **{"image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3},
        **{"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255},
        **{"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "do_convert_rgb": True},
    }

    def read(path: Path) -> None:
        read_preprocessing(read_processor_file(path.parent) or {})

    return file_target(folder / "preprocessor_config.json", [json.dumps(settings).encode()], read, mutate=mutate_json)


def _onnx_graph() -> bytes:
    from onnx import TensorProto, helper

    shape = [1, 3, 4, 4]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "descriptor")]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["images", "w"], ["descriptor"])], "g", values[:1], values[1:], [weights]
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


@target
def onnx_outlines(folder: Path) -> Prepared:
    from d2vpr_hf.backends.onnx_file import read_outline

    return file_target(folder / "model.onnx", [_onnx_graph()], read_outline)


@target
def export_files(folder: Path) -> Prepared:
    from d2vpr_hf.backends.exported_model import INFO_FILE, ExportedModel

    info = {"format_version": 1, "format": "onnx", "precision": "fp32", "model": "user/model", "fingerprint": "x", "graphs": {}}
    return file_target(
        folder / INFO_FILE, [json.dumps(info).encode()], lambda path: ExportedModel.open(path.parent), mutate=mutate_json
    )


@target
def recipes(folder: Path) -> Prepared:
    import contextlib

    from d2vpr_hf.training.options import CONFIGS, FinetuneOptions, parse_options

    seed = (CONFIGS / "finetune_gsv_cities.yaml").read_bytes() + b"\nphotos: [photos]\nout: run\nmodel: embedded\n"

    def read(path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            parse_options(FinetuneOptions, [str(path)])

    return file_target(folder / "recipe.yaml", [seed], read, (ValueError, SystemExit), mutate_text)

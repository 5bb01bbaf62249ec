"""The converter of the published OpenVision 3 towers: what it takes, what it makes, what it refuses.

Run: python -m pytest tests/conversion/test_openvision3_conversion.py
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip_layout import published_settings, to_published
from transformers import AutoImageProcessor, AutoModel

from onevision_hf import OpenVision3Config, OpenVision3ImageProcessor, OpenVision3Model
from onevision_hf.cli import main
from onevision_hf.conversion import CheckpointError, CheckpointMismatchError, OpenVision3Adapter, convert

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "openvision3"
ADAPTER = OpenVision3Adapter()
State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    return torch.load(PUBLISHED / "open_clip_pytorch_model.bin", weights_only=True)


@pytest.fixture
def settings_json() -> dict:
    return json.loads((PUBLISHED / "open_clip_config.json").read_text())


def write(folder: Path, state: State | dict, config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    if config is not None:
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("preset", "keys", "numbers"), [("base", 150, 85_893_120), ("large", 294, 303_689_728)]
)
def test_the_published_layout_has_150_keys_for_base_and_294_for_large(preset, keys, numbers):
    config = getattr(OpenVision3Config, preset)()
    with torch.device("meta"):
        published = to_published(OpenVision3Model(config).state_dict(), config)
    assert len(published) == keys
    assert sum(tensor.numel() for tensor in published.values()) == numbers


@settings(max_examples=15, deadline=None)
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 2),
    projection=st.integers(1, 80),
    channels=st.sampled_from([4, 16]),
    grid=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_ours_to_the_published_layout_and_back_is_bit_equal_for_every_size(
    layers, heads, projection, channels, grid, seed
):
    config = OpenVision3Config.tiny(
        hidden_size=64 * heads,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        projection_dim=projection,
        latent_channels=channels,
        image_size=16 * grid,
    )
    torch.manual_seed(seed)
    ours = OpenVision3Model(config).state_dict()
    published = to_published(ours, config)
    assert same(ADAPTER.to_ours(published), ours)
    # The sizes are found again from the shapes, and what shapes cannot tell from the settings.
    found = ADAPTER.config_of(published, json.loads(json.dumps(published_settings(config))))
    assert found.to_diff_dict() == config.to_diff_dict()


def test_the_published_file_to_ours_and_back_is_bit_equal_but_for_the_regenerated_table(state, settings_json):
    config = ADAPTER.config_of(state, settings_json)
    back = to_published(ADAPTER.to_ours(state), config)
    table = "visual.positional_embedding"
    assert torch.allclose(back.pop(table), state.pop(table), atol=1e-6)
    assert same(back, state)
    assert published_settings(config) == settings_json


def noncontiguous(state: State) -> State:
    return {key: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for key, tensor in state.items()}


FORMS: dict[str, Callable[[State], dict]] = {
    "with the visual. prefix": lambda state: state,
    "bare": lambda state: {key.removeprefix("visual."): tensor for key, tensor in state.items()},
    "from a wrapped training run": lambda state: {
        "epoch": 3,
        "state_dict": {f"module.{key}": tensor for key, tensor in state.items()},
    },
    "module. without visual.": lambda state: {
        "module." + key.removeprefix("visual."): tensor for key, tensor in state.items()
    },
    "non-contiguous": noncontiguous,
    "beside CLIP's text tower": lambda state: (
        state
        | {
            "logit_scale": torch.ones(()),
            "positional_embedding": torch.zeros(77, 64),
            "token_embedding.weight": torch.zeros(10, 64),
            "transformer.resblocks.0.ln_1.weight": torch.ones(64),
            "ln_final.weight": torch.ones(64),
            "text_projection": torch.zeros(64, 48),
        }
    ),
    "bare, beside a text tower": lambda state: (
        {key.removeprefix("visual."): t for key, t in state.items()}
        | {"text.transformer.resblocks.0.ln_1.weight": torch.ones(64), "text_decoder.proj": torch.ones(2, 2)}
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_settings", [True, False])
def test_every_form_that_the_file_is_found_in_gives_the_same_weights(
    form, with_settings, state, settings_json, tmp_path
):
    folder = write(tmp_path / "published", FORMS[form](state), settings_json if with_settings else None)
    published, config, _ = ADAPTER.read(str(folder))
    ours = ADAPTER.to_ours(published)
    assert same(ours, ADAPTER.to_ours(state))
    assert all(tensor.is_contiguous() for tensor in ours.values())
    assert (config.hidden_size, config.num_attention_heads, config.image_size) == (64, 1, 64)
    assert config.layer_norm_eps == 1e-6


def test_the_command_writes_a_folder_with_code_processor_and_a_card_on_the_licence(tmp_path, capsys):
    destination = tmp_path / "converted"
    assert main(["convert", "openvision3", str(PUBLISHED), str(destination), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["published_keys"] == 30 and report["parameters"] == report["published_numbers"] - 17 * 64
    assert set(report["files"]) == {path.name for path in destination.iterdir()}
    config = json.loads((destination / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel"}
    for reference in config["auto_map"].values():
        assert (destination / f"{reference.split('.')[0]}.py").is_file()
    assert isinstance(AutoModel.from_pretrained(destination), OpenVision3Model)
    processor = AutoImageProcessor.from_pretrained(destination)
    assert isinstance(processor, OpenVision3ImageProcessor)
    assert (processor.size.shortest_edge, processor.crop_size.height) == (64, 64)
    card = ModelCard.load(destination / "README.md")
    assert card.data.license == "other" and card.data.license_name == "not-stated-by-the-publisher"
    assert "states no licence for these weights" in card.text and "FLUX.1-dev" in card.text


def test_a_licence_that_the_source_states_is_handed_on(state, tmp_path):
    folder = write(tmp_path / "published", state)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A tower\n")
    convert("openvision3", folder, tmp_path / "converted")
    card = ModelCard.load(tmp_path / "converted" / "README.md")
    assert card.data.license == "mit" and "The source's card states mit." in card.text


def test_a_failed_conversion_leaves_nothing_and_a_finished_one_is_not_overwritten(state, tmp_path):
    del state["visual.proj"]
    with pytest.raises(CheckpointMismatchError):
        convert("openvision3", write(tmp_path / "published", state), tmp_path / "converted")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
    convert("openvision3", PUBLISHED, tmp_path / "converted")
    with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
        convert("openvision3", PUBLISHED, tmp_path / "converted")


def test_every_wrong_key_is_listed_by_what_is_wrong_with_it(state):
    block = "transformer.resblocks.1."
    del state[f"visual.{block}ln_2.bias"], state["visual.ln_post.weight"]
    state[f"visual.{block}mlp.c_proj.bias"] = torch.zeros(63)
    state["visual.ln_pre.weight"] = torch.zeros(64)
    state["some.head"] = torch.zeros(2)
    with pytest.raises(CheckpointMismatchError) as caught:
        ADAPTER.config_of(state)
    error = caught.value
    assert set(error.missing) == {f"{block}ln_2.bias", "ln_post.weight"}
    assert set(error.left) == {"ln_pre.weight", "some.head"}
    assert error.misshapen == {f"{block}mlp.c_proj.bias": ((63,), (64,))}
    for name in (*error.missing, *error.left, *error.misshapen):
        assert name in str(error)


def drop(key: str) -> Callable[[State], dict]:
    return lambda state: {name: tensor for name, tensor in state.items() if name != key}


def put(key: str, tensor: torch.Tensor) -> Callable[[State], dict]:
    return lambda state: state | {key: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("visual.class_embedding"), r"missing \(1\): class_embedding.*without class token"),
        (put("visual.conv1.bias", torch.zeros(64)), r"left over \(1\): conv1.bias.*convolution with bias"),
        (drop("visual.proj"), r"missing \(1\): proj;.*no pooled vector"),
        (drop("visual.conv1.weight"), r"missing \(1\): conv1.weight"),
        (put("visual.proj", torch.zeros(64)), r"proj is \(64,\)"),
        (put("visual.positional_embedding", torch.zeros(16, 64)), r"\(16, 64\), expected \(10, 64\)"),
        (
            put("visual.positional_embedding", torch.randn(17, 64)),
            "positional_embedding is not the fixed sin-cos",
        ),
        (put("visual.positional_embedding", torch.full((17, 64), torch.nan)), "positional_embedding is not"),
        (lambda state: state | {"module.visual.proj": state["visual.proj"]}, "visual.proj is .* twice"),
        (lambda state: {"epoch": 1}, "not tensors: epoch"),
        (lambda state: [1, 2], "holds a list"),
        (lambda state: {}, "it is empty"),
        (lambda state: {"text.ln_final.weight": torch.ones(2)}, r"missing \(18\)"),
    ],
)
def test_towers_of_another_kind_are_refused_by_name(change, message, state, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        ADAPTER.read(str(write(tmp_path / "published", change(state))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool_type": "tok"}, "pool_type = 'tok'"),
        ({"no_ln_pre": False}, "no_ln_pre = False"),
        ({"final_ln_after_pool": False}, "final_ln_after_pool = False"),
        ({"act_kwargs": {"approximate": "tanh"}}, "another activation"),
        ({"head_width": 48}, "64 cannot be split into heads of 48"),
    ],
)
def test_settings_of_another_architecture_with_the_same_shapes_are_refused(
    change, message, state, settings_json
):
    settings_json["model_cfg"]["vision_cfg"] |= change
    with pytest.raises(CheckpointError, match=message):
        ADAPTER.config_of(state, settings_json)


def test_the_epsilon_of_the_settings_is_taken_and_open_clips_default_where_they_name_none(
    state, settings_json
):
    del settings_json["model_cfg"]["vision_cfg"]["norm_kwargs"]
    assert ADAPTER.config_of(state, settings_json).layer_norm_eps == 1e-5


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_pickled_code_is_refused_and_never_run(form, state, tmp_path):
    mark, folder = tmp_path / "mark", tmp_path / "published"
    folder.mkdir()
    path = folder / "open_clip_pytorch_model.bin"
    poisoned = state | {"payload": Payload(mark)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save(poisoned, path, _use_new_zipfile_serialization=form == "zip")
    mark.unlink(missing_ok=True)
    with pytest.raises(
        CheckpointError, match="holds pickled objects other than tensors, which are never executed"
    ):
        ADAPTER.read(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_called_so(kept, tmp_path):
    content = (PUBLISHED / "open_clip_pytorch_model.bin").read_bytes()
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=r"_model\.bin is truncated or no torch file"):
        ADAPTER.read(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "openvision3", "{tmp}", "{tmp}/out"], "holds no open_clip_pytorch_model.bin"),
        (["convert", "openvision3", "not a hub id", "{tmp}/out"], "neither a folder nor a Hub id"),
        (["convert", "openvision3", "{tmp}/absent", "{tmp}/out"], "holds no open_clip_pytorch_model.bin"),
        (
            ["convert", "openvision3", str(PUBLISHED), "{tmp}/out", "--revision", "main"],
            "has no revision 'main'",
        ),
    ],
)
def test_a_wrong_source_ends_with_one_line(arguments, message, tmp_path, capsys):
    assert main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_settings_that_are_no_settings_are_named(state, tmp_path):
    folder = write(tmp_path / "published", state)
    for content, message in (("{", "is not JSON"), ("[]", "a JSON list"), ("{}", "no model_cfg")):
        (folder / "open_clip_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            ADAPTER.read(str(folder))

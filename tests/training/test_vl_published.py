"""A published LLaVA-OneVision-2 folder is trained on as it is, and saved with the published names.

Run: python -m pytest tests/training/test_vl_published.py
"""

import json

import pytest
import torch
from clips import moving_scene, write_clip
from ov2_recorded import PUBLISHED
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from vl_workers import BASE, train

from onevision_hf import LlavaOnevision2ForConditionalGeneration, LlavaOnevision2Processor
from onevision_hf.conversion.multimodal import load_multimodal
from onevision_hf.data.conversations import open_conversations
from onevision_hf.training.config import from_dict, load_config
from onevision_hf.training.dry_run.plan import describe, memory_by_part, small_run
from onevision_hf.training.loader import collate
from onevision_hf.training.tasks.packing import Measurer
from onevision_hf.training.tasks.vl import VLTask
from onevision_hf.training.tasks.vl_plan import VLPlan

CANVASES = {"videos_kwargs": {"preset": "ov2", "max_canvases": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Conversations about a clip, a picture, and words alone."""
    root = tmp_path_factory.mktemp("published")
    (root / "vl").symlink_to(PUBLISHED)
    write_clip(root / "clip.mp4", moving_scene(48, 56, 84), gop=16)
    Image.new("RGB", (84, 56), "green").save(root / "a.png")
    media = [{"video": "clip.mp4"}, {"image": "a.png"}, {}]
    records = []
    for number in range(6):
        own = media[number % 3]
        turns = [
            {"from": "human", "value": "<image>\nWhat is it?" if own else "Sure?"},
            {"from": "gpt", "value": "Green."},
        ]
        records.append({"id": str(number), "conversations": turns, **own})
    (root / "asked.json").write_text(json.dumps(records))
    return root


def changes(**more):
    return {
        "max_steps": 2,
        "vl": {"token_budget": 1500, "batch_size": 2, "published_settings": CANVASES, **more},
    }


@pytest.fixture(scope="module")
def trained(folder):
    return train(folder, folder / "whole", **changes())


def test_all_parts_learn_and_the_folder_is_a_published_one_again(folder, trained):
    assert trained["status"] == 0 and len(trained["log"]) == 2
    saved = folder / "whole" / "model"
    config = json.loads((saved / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (
        "llava_onevision2",
        ["LlavaOnevision2ForConditionalGeneration"],
    )
    with (
        safe_open(saved / "model.safetensors", "pt") as new,
        safe_open(PUBLISHED / "model.safetensors", "pt") as old,
    ):
        assert set(new.keys()) == set(old.keys())
        for part in ("visual.encoder.layers.0.self_attn.qkv", "visual.merger.mlp.0", "language_model.norm"):
            name = f"model.{part}.weight"
            assert not torch.equal(new.get_tensor(name), old.get_tensor(name)), name
    assert type(AutoModelForImageTextToText.from_pretrained(saved)) is LlavaOnevision2ForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(saved)) is LlavaOnevision2Processor


def test_packs_lose_what_the_model_loses_on_each_conversation(folder, tmp_path):
    """The windows of canvases and pictures are those of the model's own call."""
    places = {"model": str(PUBLISHED), "source": str(folder / "asked.json"), "lora_rank": 0}
    config = from_dict({**BASE, "out": str(tmp_path), "vl": {**changes()["vl"], **places}})
    task = VLTask(config, {})
    task.build()
    model = AutoModelForImageTextToText.from_pretrained(PUBLISHED)
    rows = open_conversations(str(folder / "asked.json"))
    processor = AutoProcessor.from_pretrained(PUBLISHED)
    samples = [
        task.mixture[0].transform(pack, None, 0)
        for pack in map(task.packed.__getitem__, range(len(task.packed)))
    ]
    batch = {name: torch.as_tensor(value) for name, value in collate(samples).items()}
    with torch.no_grad():
        packed = task.model({"vl": batch})
        alone = 0.0
        for number in (int(n) for pack in task.packed.packs for n in pack):
            found = processor.encode_dialogue(rows[number].messages, **CANVASES)
            labels = found.pop("labels")
            mean = model(**{**found, "input_ids": found["input_ids"][None]}, labels=labels[None]).loss
            alone += mean * (labels[1:] != -100).sum()
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [CANVASES, {"videos_kwargs": {"num_frames": 3}}, {"frame_sampling": "vllm", "max_pixels": 6272}],
)
def test_lengths_are_those_of_the_samples(folder, settings):
    processor = AutoProcessor.from_pretrained(PUBLISHED)
    measurer = Measurer(processor, False, settings)
    for row in (open_conversations(str(folder / "asked.json"))[number] for number in range(3)):
        found = processor.encode_dialogue(row.messages, **settings)["input_ids"]
        assert measurer(row) == len(found)


def test_low_rank_matrices_are_learned_beside_it(folder):
    done = train(folder, folder / "lora", **changes(tower_lr_scale=0.0, lora_rank=2))
    assert done["status"] == 0
    adapted = load_multimodal(str(folder / "lora" / "model"))
    before = AutoModelForImageTextToText.from_pretrained(PUBLISHED)
    assert type(adapted) is type(before)
    layer = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(adapted.get_parameter(layer), before.get_parameter(layer))
    kept = "vision_tower.encoder.layers.0.self_attn.q_proj.weight"
    assert torch.equal(adapted.get_parameter(kept), before.get_parameter(kept))
    assert any(
        "lora_A" in name for name in load_file(folder / "lora" / "model" / "adapter_model.safetensors")
    )


@pytest.mark.parametrize("name", ["vl_stage2", "vl_lora"])
def test_the_recipes_begin_with_it_and_are_planned(folder, tmp_path, name):
    """As `onevision train --config vl_stage2 vl.model=FOLDER --dry-run` has it."""
    config = load_config(name, [f"vl.model={PUBLISHED}", f"vl.source={tmp_path / 'none.json'}"])
    plan = VLPlan(config, tmp_path)
    assert plan.task.settings["videos_kwargs"]["preset"] == "ov2"
    text = describe(plan, "runs/ov2", 8)
    assert "in the vision tower" in text and "memory of a process" in text
    weights = sum(t.numel() for t in load_file(PUBLISHED / "model.safetensors").values())
    own = {part: count for part, count in plan.parameters().items() if part != "adapter"}
    assert sum(own.values()) == weights
    assert memory_by_part(plan, 1)["weights"] == 4 * sum(plan.parameters().values())


def test_a_wide_language_model_is_made_narrow_for_two_steps(folder, tmp_path):
    """A billion weights of embeddings would fill a laptop; widths are those of the 8B model."""
    config = load_config("vl_stage2", [f"vl.model={PUBLISHED}", f"vl.source={tmp_path / 'none.json'}"])
    config.device = "cpu"
    plan = VLPlan(config, tmp_path)
    wide = {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32}
    for name, value in {**wide, "num_key_value_heads": 8, "head_dim": 128}.items():
        setattr(plan.task.model_config.text_config, name, value)
    plan.task.model_config.vision_config.out_hidden_size = 4096
    small = small_run(plan, tmp_path, 1, 1)
    assert "512 of 4096 channels of the language model" in small.notes
    model = AutoModelForImageTextToText.from_pretrained(small.config.vl.model)
    assert model.config.text_config.hidden_size == 512
    assert sum(p.numel() for p in model.parameters()) < 10e6

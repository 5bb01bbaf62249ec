"""The multimodal model learns from packed conversations, on answers alone, at a rate for each part.

Run: python -m pytest tests/training/test_vl_training.py
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import vl_workers as workers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from processes import run
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from vl_tiny import prompt, tiny_config, tiny_model, tiny_processor, user
from vl_workers import make_config, train

from onevision_hf import OpenVision3Config
from onevision_hf.conversion.multimodal import load_multimodal, make_processor
from onevision_hf.data.conversations import as_messages, open_conversations
from onevision_hf.data.sources import MediaError
from onevision_hf.training.config import ConfigError, load_config
from onevision_hf.training.dry_run.plan import dry_run, memory_by_part
from onevision_hf.training.loader import collate
from onevision_hf.training.optimisation import Optimizers
from onevision_hf.training.tasks.packing import Measurer, measure, pack
from onevision_hf.training.tasks.vl import PackTransform, VLTask, unpadded
from onevision_hf.training.tasks.vl_plan import VLPlan, some


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return workers.write_sources(tmp_path_factory.mktemp("vl"))


@pytest.fixture(scope="module")
def straight(folder):
    """All parts, six steps, in one process."""
    return train(folder, folder / "straight")


# -- conversations --


def test_llavas_layout_places_its_media(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    messages = as_messages({"conversations": turns, "image": "a.png"}, tmp_path)
    assert messages == [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": str(tmp_path / "a.png")},
                {"type": "text", "text": "What?"},
            ],
        },
        {"role": "assistant", "content": "A cat."},
    ]
    several = [{"from": "human", "value": "<image><image>\nAlike? <image>"}, {"from": "gpt", "value": "No."}]
    content = as_messages({"conversations": several, "image": ["a", "b", "c"]}, None)[0]["content"]
    assert [part.get("image") or part["text"] for part in content] == ["a", "b", "Alike? ", "c"]
    unmarked = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]
    content = as_messages({"conversations": unmarked, "video": "a.mp4"}, None)[0]["content"]
    assert [part["type"] for part in content] == ["video", "text"]
    content = as_messages({"conversations": turns, "video": "a.mp4"}, None)[0]["content"]
    assert content[0] == {"type": "video", "video": "a.mp4"}  # LLaVA-Video marks clips as images
    with pytest.raises(ValueError, match="more marks <image> than it has media"):
        as_messages({"conversations": several, "image": "a"}, None)
    with pytest.raises(ValueError, match="1 media have no mark"):
        as_messages({"conversations": turns, "image": ["a", "b"]}, None)


def test_sources_of_every_kind_and_none(tmp_path):
    import datasets

    lines = [{"id": 7, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines * 2)))
    rows = open_conversations(str(tmp_path / "a.jsonl"))
    assert len(rows) == 2 and rows[1].key == "7" and rows[0].messages[1]["content"] == "b"

    Image.fromarray(np.zeros((28, 28, 3), np.uint8)).save(tmp_path / "a.png")
    messages = [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Black."}]},
    ]
    made = datasets.Dataset.from_dict(
        {"images": [[str(tmp_path / "a.png")]], "messages": [messages]},
    ).cast_column("images", datasets.Sequence(datasets.Image()))
    made.save_to_disk(str(tmp_path / "set"))
    found = open_conversations(f"hf:{tmp_path / 'set'}")[0]
    assert found.messages[0]["content"][1] == {"type": "text", "text": "What?"}
    inputs = tiny_processor(tiny_config()).encode_dialogue(found.messages)
    assert len(inputs["pixel_values"]) == 4
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"this one has \['text'\]"):
        open_conversations(f"hf:{tmp_path / 'other'}")

    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_conversations(str(tmp_path / "no.json"))
    with pytest.raises(ValueError, match="onevision synth questions"):
        open_conversations(str(tmp_path))
    for text, said in (("{", "is not JSON"), ("{}", "a list of objects"), ("[1]", "a list of objects")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            open_conversations(str(tmp_path / "bad.json"))
    (tmp_path / "odd.json").write_text('[{"text": "no conversation"}]')
    with pytest.raises(MediaError, match="odd/0000000 is no conversation"):
        open_conversations(str(tmp_path / "odd.json"))[0]


def test_drawn_questions_are_conversations(tmp_path):
    from onevision_hf.cli import main

    words = f"synth questions --out {tmp_path / 'asked'} --count 4 --num-frames 32 --workers 1"
    assert main(words.split()) == 0
    rows = open_conversations(str(tmp_path / "asked"))
    assert len(rows) == 4
    asked, answer = rows[0].messages
    assert asked["content"][0]["type"] == "video" and Path(asked["content"][0]["video"]).is_file()
    assert "\nA. " in asked["content"][1]["text"] and answer["content"] in "ABCD"


# -- what is learned --


def test_only_answers_are_learned_with_the_end_of_their_turn():
    processor = tiny_processor(tiny_config())
    picture = np.zeros((28, 28, 3), np.uint8)
    answers = ["Red.", "Yes, quite."]
    messages = [
        *user(("image", picture), "What?"),
        {"role": "assistant", "content": answers[0]},
        *user("Sure?"),
        {"role": "assistant", "content": answers[1]},
    ]
    inputs = processor.encode_dialogue(messages)
    ids, labels = inputs["input_ids"], inputs["labels"]
    assert torch.equal(ids[labels != -100], labels[labels != -100])
    learned = processor.tokenizer.decode(labels[labels != -100])
    assert learned == "".join(f"{answer}<|im_end|>\n" for answer in answers)
    whole = prompt(processor, messages[:1])["input_ids"][0]
    assert torch.equal(ids[: len(whole)], whole)  # what is asked is what generation is given
    plain = processor.encode_dialogue(messages[:2], plain=True)
    assert processor.tokenizer.decode(plain["input_ids"]) == "<|image_pad|>" * 4 + "Red.\n"
    assert processor.tokenizer.decode(plain["labels"][plain["labels"] != -100]) == "Red.\n"


def test_what_cannot_be_learned_is_an_error():
    processor = tiny_processor(tiny_config())
    with pytest.raises(ValueError, match="has no answer"):
        processor.encode_dialogue(user("What?"))
    shown = [{"role": "assistant", "content": [{"type": "image", "image": np.zeros((28, 28, 3), np.uint8)}]}]
    with pytest.raises(ValueError, match="an answer shows a medium"):
        processor.encode_dialogue([*user("What?"), *shown])
    with pytest.raises(ValueError, match="found 0 media and 1 answers"):
        processor.encode_dialogue([*user("What?"), {"role": "assistant", "content": "x"}], plain=True)
    with pytest.raises(ValueError, match="names no image"):
        processor.encode_dialogue(
            [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "x"}]
        )
    processor.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="a template that only appends"):
        processor.encode_dialogue([*user("a"), {"role": "assistant", "content": "b"}])


# -- packs --


@given(
    lengths=st.lists(st.integers(0, 120), min_size=1, max_size=200),
    budget=st.integers(50, 150),
    seed=st.integers(0, 3),
)
def test_packs_hold_every_row_once_and_keep_to_the_budget(lengths, budget, seed):
    lengths = np.array(lengths)
    packs = pack(lengths, budget, seed)
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    for rows in packs:
        assert lengths[rows].sum() <= budget or len(rows) == 1
    again = pack(lengths, budget, seed)
    assert all(np.array_equal(a, b) for a, b in zip(packs, again, strict=True))
    if len(lengths) == 200 and lengths.sum() > 20 * budget:
        assert lengths.sum() / (len(packs) * budget) > 0.7


def test_lengths_without_decoding_are_those_of_the_samples(folder, tmp_path):
    processor = AutoProcessor.from_pretrained(folder / "vl")
    rows = open_conversations(str(folder / "asked.json"))
    measurer = Measurer(processor, False, {})
    lengths = measure(rows, measurer, tmp_path / "lengths.safetensors")
    found = [len(processor.encode_dialogue(rows[i].messages)["input_ids"]) for i in range(len(rows))]
    assert lengths.tolist() == found
    rows[0].messages.clear()

    class Never:
        digest = measurer.digest

        def __call__(self, conversation):
            raise AssertionError("measured again")

    assert np.array_equal(measure(rows, Never(), tmp_path / "lengths.safetensors"), lengths)
    with pytest.raises(AssertionError, match="measured again"):
        measure(
            rows,
            type("Other", (Never,), {"digest": lambda self, rows: "other"})(),
            tmp_path / "lengths.safetensors",
        )


def test_conversations_of_a_pack_do_not_see_one_another(folder):
    """The loss of packs is that of their conversations one by one."""
    config = make_config(folder, folder / "apart")
    task = VLTask(config, {})
    task.build()
    component = task.mixture[0]
    packed = component.dataset
    assert max(len(numbers) for numbers in packed.packs) > 1
    batch = {"vl": collate([component.transform(packed[k], None, 0) for k in range(3)])}
    count = task.prepare(batch, 0)
    together = task.losses(task.model(batch), count)["vl"]
    total, learned = 0.0, 0
    for k in range(3):
        for number in packed.packs[k]:
            alone = task.processor.encode_dialogue(packed.conversations[int(number)].messages)
            media = {n: t for n, t in alone.items() if n.startswith(("pixel", "image"))}
            labels = alone["labels"][None]
            loss = task.model.vl(input_ids=alone["input_ids"][None], labels=labels, **media).loss
            learned += int((labels[:, 1:] != -100).sum())
            total += float(loss) * int((labels[:, 1:] != -100).sum())
    assert learned == int(count)
    assert abs(float(together) - total / learned) < 1e-5 * total / learned


def test_a_pack_beyond_the_budget_and_a_broken_picture_are_named(folder):
    view = PackTransform(AutoProcessor.from_pretrained(folder / "vl"), make_config(folder, folder / "x").vl)
    rows = open_conversations(str(folder / "asked.json"))

    class One:
        def __init__(self, row):
            self.conversations, self.numbers = [row], np.array([0])

    row = rows[0]
    row.messages[-1]["content"] = "Yes" * 200
    with pytest.raises(MediaError, match=r"tokens, more than vl.token_budget = 260: raise it, or lower"):
        view(One(row), None, 0)
    row = rows[0]
    row.messages[0]["content"][0]["image"] = str(folder / "gone.png")
    with pytest.raises(OSError, match=r"gone\.png"):
        view(One(row), None, 0)
    row.messages.pop()
    row.messages.pop(1)
    with pytest.raises(MediaError, match="item0: the conversation has no answer"):
        view(One(type(row)("item0", row.messages[1:])), None, 0)


def test_packs_of_words_alone_are_unpadded_too():
    batch = {
        "input_ids": torch.tensor([[1, 2, 0], [3, 4, 5]]), "labels": torch.zeros(2, 3).long(),
        "position_ids": torch.zeros(2, 3).long(), "sizes": torch.tensor([[2, 0, 0, 0, 0], [3, 0, 0, 0, 0]]),
    }  # fmt: skip
    text, media = unpadded(batch)
    assert text["input_ids"].tolist() == [1, 2, 3, 4, 5] and not media


# -- training --


def changed(folder: Path, result) -> set[str]:
    """The parts that a run has moved."""
    before = load_file(folder / "vl" / "model.safetensors")
    after = {
        n.removeprefix("model.vl."): t for n, t in result["tensors"].items() if n.startswith("model.vl.")
    }
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_stage_two_moves_all_parts_that_a_feature_depends_on(folder, straight):
    assert straight["status"] == 0 and len(straight["log"]) == 6
    assert straight["log"][-1] < straight["log"][0]
    assert changed(folder, straight) == {"vision_tower", "connector", "language_model"}
    before, after = load_file(folder / "vl" / "model.safetensors"), straight["tensors"]
    for unread in ("vision_tower.encoder.layers.1.mlp.fc1.weight", "vision_tower.head.probe"):
        assert torch.equal(before[unread], after[f"model.vl.{unread}"])
    model = AutoModelForImageTextToText.from_pretrained(folder / "straight" / "model")
    assert all(torch.equal(t, after[f"model.vl.{n}"]) for n, t in model.state_dict().items())
    AutoProcessor.from_pretrained(folder / "straight" / "model")
    card = (folder / "straight" / "model" / "README.md").read_text()
    assert "AutoModelForImageTextToText.from_pretrained" in card and str(folder) not in card


def test_stage_one_moves_the_connector_alone(folder, tmp_path):
    source = json.loads((folder / "asked.json").read_text())
    captions = [
        {**record, "conversations": record["conversations"][:2]} for record in source if "image" in record
    ]
    (folder / "captions.json").write_text(json.dumps(captions))
    result = train(
        folder, tmp_path / "stage1",
        vl={"tower_lr_scale": 0.0, "llm_lr_scale": 0.0, "prompt": "plain",
            "source": str(folder / "captions.json"), "batch_size": 2, "token_budget": 40},
    )  # fmt: skip
    assert changed(folder, result) == {"connector"}


def test_each_part_has_its_rate(folder):
    config = make_config(folder, folder / "rates", vl={"tower_lr_scale": 0.2, "connector_lr_scale": 3.0})
    task = VLTask(config, {})
    task.build()
    optimizers = Optimizers(task.model, {}, config.optim, task.lr_scales)
    for parameter in task.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(0.5)
    rates = {}
    for group in optimizers.model.param_groups:
        for parameter in group["params"]:
            part = optimizers.names[id(parameter)].split(".")[1]
            rates.setdefault(part, set()).add(group["lr"])
    assert rates == {"vision_tower": {1e-4}, "connector": {1.5e-3}, "language_model": {5e-4}}


def test_a_run_stopped_and_resumed_is_bit_equal(folder, straight):
    train(folder, folder / "resumed", stop_at=3)
    again = train(folder, folder / "resumed")
    assert again["log"] == straight["log"]
    assert again["tensors"].keys() == straight["tensors"].keys()
    assert all(torch.equal(again["tensors"][name], t) for name, t in straight["tensors"].items())


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(folder, straight):
    both, _ = run(train, folder, folder / "two", size=2)
    np.testing.assert_allclose(both["log"], straight["log"], rtol=1e-5)
    for name, tensor in straight["tensors"].items():
        if name.startswith("model."):
            torch.testing.assert_close(both["tensors"][name], tensor, rtol=1e-3, atol=1e-5)


def test_lora_saves_an_adapter_that_reloads(folder, tmp_path):
    from peft import PeftModel

    result = train(
        folder, tmp_path / "lora", max_steps=4, vl={"tower_lr_scale": 0.0, "lora_rank": 4, "lora_alpha": 8.0}
    )
    saved = tmp_path / "lora" / "model"
    state = load_file(saved / "adapter_model.safetensors")
    parts = {name.removeprefix("base_model.model.").split(".")[0] for name in state}
    assert parts == {"connector", "language_model"}
    base = AutoModelForImageTextToText.from_pretrained(folder / "vl")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    adapted = PeftModel.from_pretrained(base, saved).eval()
    live = {name.removeprefix("model.vl."): tensor for name, tensor in result["tensors"].items()}
    for name, tensor in adapted.state_dict().items():
        if "lora_" in name or "modules_to_save" in name:
            assert torch.equal(tensor, live[name]), name
    for name, tensor in live.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if plain in before:
            assert torch.equal(tensor, before[plain])
    inputs = prompt(AutoProcessor.from_pretrained(saved), user(("image", str(folder / "0.png")), "What?"))
    with torch.no_grad():
        moved = (adapted(**inputs).logits - tiny_model("patch_merger")(**inputs).logits).abs().max()
        assert moved > 1e-4
        merged = load_multimodal(str(saved), "float32").eval()  # as `onevision chat` reads it
        torch.testing.assert_close(merged(**inputs).logits, adapted(**inputs).logits, rtol=1e-4, atol=1e-5)


# -- the plan --


def planned(config, capsys, processes: int = 1) -> str:
    """What a dry run says; it leaves nothing."""
    assert dry_run(config, processes) == 0
    assert not Path(config.out).exists()
    said = capsys.readouterr().out
    assert "two steps done" in said
    return said


def test_a_dry_run_plans_the_conversations_and_what_is_trained(folder, tmp_path, capsys):
    config = make_config(
        folder, tmp_path / "run", vl={"tower_lr_scale": 0.0, "llm_lr_scale": 0.0}, max_steps=50
    )
    said = planned(config, capsys, processes=2)
    task = VLTask(config, {})
    packs = len(task.mixture[0].dataset.packs)
    assert f"vl: 24 conversations at {folder / 'asked.json'}" in said
    assert f"packs: about {packs} of 260 tokens" in said
    assert "4 packs, 1040 tokens in 1 micro-batch(es)" in said and "steps: 50, 200 packs" in said
    model = tiny_model("patch_merger")
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, model.connector)]
    # The weights of all; AdamW's two moments and the gradient of the connector alone.
    plan = VLPlan(config, tmp_path)
    found = memory_by_part(plan, 1)
    assert (found["weights"], found["gradients"], found["moments"]) == (
        4 * sizes[0], 4 * sizes[1], 8 * sizes[1],
    )  # fmt: skip
    assert sum(plan.parameters().values()) == sizes[0] and f"{sizes[1] / 1e6:.1f} M of them are" in said


def test_the_plan_of_an_adapter_counts_what_a_trainer_holds(folder, tmp_path):
    config = make_config(folder, tmp_path, vl={"tower_lr_scale": 0.0, "lora_rank": 4})
    plan = VLPlan(config, tmp_path)
    planned, task = (plan.parameters(), plan.trained()), plan.task
    task.build()
    own = list(task.model.parameters())
    assert sum(planned[0].values()) == sum(p.numel() for p in own)
    assert planned[1] == sum(p.numel() for p in own if p.requires_grad)


def test_a_dry_run_of_a_deep_model_without_data_takes_a_shallow_one(folder, tmp_path, capsys):
    """On a processor; the plan is of the whole model, behind a tower whose VAE is not there."""
    vision = OpenVision3Config.tiny(num_hidden_layers=4, vae_name_or_path=str(tmp_path / "absent"))
    model = tiny_model(vision=vision)
    model.save_pretrained(tmp_path / "deep")
    parts = tiny_processor(model.config)
    colours = ([0.5] * 3, [0.5] * 3)
    make_processor(model.config, parts.tokenizer, colours=colours).save_pretrained(tmp_path / "deep")
    absent = {"model": str(tmp_path / "deep"), "source": "absent.json", "token_budget": 4096}
    config = make_config(folder, tmp_path / "run", vl={**absent, "tower_lr_scale": 0.0, "prompt": "plain"})
    said = planned(config, capsys)
    assert "vl: no data (absent.json does not exist); random pictures instead" in said
    assert "2 of 4 layers of the tower" in said and "random weights, instead" in said
    assert (
        f"{sum(p.numel() for p in model.vision_tower.parameters()) / 1e6:.1f} M in the vision tower" in said
    )


def test_a_dry_run_says_what_of_the_source_cannot_be_trained_on(folder, tmp_path, capsys):
    records = json.loads((folder / "asked.json").read_text())
    records[0]["image"] = "gone.png"
    records[1]["conversations"][1]["value"] = "Yes" * 200
    (tmp_path / "asked.json").write_text(json.dumps(records))
    changes = {"source": str(tmp_path / "asked.json"), "media_root": str(folder)}
    said = planned(make_config(folder, tmp_path / "run", vl=changes), capsys)
    assert "1 of 24 conversations cannot be read" in said
    assert "1 of 24 are longer than vl.token_budget and will not be trained on" in said
    elsewhere = [record for record in records if "image" in record]
    (tmp_path / "asked.json").write_text(json.dumps(elsewhere))
    changes["media_root"] = str(tmp_path)
    said = planned(make_config(folder, tmp_path / "run", vl=changes), capsys)
    assert f"none of {len(elsewhere)} can be read (is vl.media_root right?)" in said


def test_a_large_source_is_measured_in_part(folder):
    rows = open_conversations(str(folder / "asked.json"))
    part = some(rows, 5)
    assert [part[n].key for n in range(len(part))] == ["item0", "item5", "item11", "item17", "item23"]
    assert some(rows, 24) is rows


# -- configs --


def test_published_configs_are_whole():
    for name, rate in (
        ("vl_stage1", 1e-3),
        ("vl_stage2", 1e-5),
        ("vl_llava15_openvision3", 2e-5),
        ("vl_lora", 2e-4),
    ):
        config = load_config(name)
        assert config.task == "vl" and config.optim.learning_rate == rate
    assert load_config("vl_stage2").vl.tower_lr_scale * 1e-5 == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vl": {"model": ""}}, r"vl\.model is '', expected a folder"),
        ({"vl": {"batch_size": 0}}, "vl.batch_size is 0, expected at least 1"),
        (
            {"optim": {"gradient_accumulation_steps": 3}},
            "vl.batch_size is 4, expected a multiple of optim.gradient_accumulation_steps, 3",
        ),
        ({"vl": {"tower_lr_scale": -1}}, "vl.tower_lr_scale is -1, expected 0 or at least 0.001"),
        ({"vl": {"tower_lr_scale": 0, "connector_lr_scale": 0, "llm_lr_scale": 0}}, "nothing is trained"),
        ({"vl": {"lora_rank": 2}}, "an adapter has no tower"),
        ({"vl": {"lora_rank": 2, "tower_lr_scale": 0, "llm_lr_scale": 0}}, "it is the adapter's"),
        ({"vl": {"lora_dropout": 1.0}}, "from 0 to below 1"),
        ({"vl": {"lora_alpha": 0}}, "above 0"),
        ({"vl": {"promt": "plain"}}, r"unknown key vl\.promt \(did you mean vl\.prompt\?\)"),
    ],
)
def test_a_config_that_no_run_can_have_says_so(changes, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        make_config(tmp_path, tmp_path, **changes)


def test_a_task_that_cannot_begin_says_so(folder, tmp_path):
    with pytest.raises(ConfigError, match="is for encoders"):
        make_config(folder, tmp_path, validation={"every": 2})
    with pytest.raises(ConfigError, match="put one together with `onevision assemble`"):
        tiny_model().vision_tower.save_pretrained(tmp_path / "encoder")
        VLTask(make_config(folder, tmp_path, vl={"model": str(tmp_path / "encoder")}), {})
    with pytest.raises(ConfigError, match=r"no model can be read there: `onevision assemble`"):
        VLTask(make_config(folder, tmp_path, vl={"model": str(tmp_path / "none")}), {})
    with pytest.raises(ConfigError, match="no features whose neighbours"):
        VLTask(make_config(folder, tmp_path), {}).encode({})

"""The classifier: its head is the published probe, it trains, and it comes back as it was saved.

Run: python -m pytest tests/modeling/test_onevision_classification.py
"""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import AutoModelForVideoClassification, Trainer, TrainingArguments
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from onevision_hf import OneVisionConfig, OneVisionForVideoClassification, OneVisionModel
from onevision_hf.modeling.modeling_onevision_classification import (
    OneVisionAttentiveHead,
    classification_loss,
)
from onevision_hf.modeling.patch_inputs import cut_patches, grid_positions

NAMES = {0: "left", 1: "right", 2: "up"}


def tiny(**changes) -> OneVisionForVideoClassification:
    torch.manual_seed(0)
    model = OneVisionForVideoClassification(OneVisionConfig.tiny(id2label=NAMES, **changes))
    model.classifier.fc.weight.data.mul_(1000)  # logits that tell inputs apart
    return model.eval()


@pytest.fixture
def videos() -> torch.Tensor:
    return torch.randn(2, 3, 4, 28, 28, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_head_is_the_published_one():
    """The published head written out with torch's own modules, over the same weights."""
    torch.manual_seed(0)
    head = OneVisionAttentiveHead(128, 5)
    tokens = torch.randn(2, 7, 128)
    attention = nn.MultiheadAttention(128, 2, batch_first=True)
    attention.load_state_dict(head.attention.state_dict())
    x = attention(head.probe.repeat(2, 1, 1), tokens, tokens)[0]
    first, _, second = head.mlp
    normed = nn.functional.rms_norm(x, (128,), head.norm.weight)
    x = x + second(nn.functional.gelu(first(normed)))
    expected = head.fc(nn.functional.layer_norm(x[:, 0], (128,), head.fc_norm.weight, head.fc_norm.bias))
    torch.testing.assert_close(head(tokens), expected, rtol=1e-5, atol=1e-5)


def test_a_new_head_starts_as_published():
    torch.manual_seed(0)
    head = OneVisionForVideoClassification(OneVisionConfig.tiny(hidden_size=256, num_labels=50)).classifier
    assert head.attention.num_heads == 4
    for weight, std in (
        (head.mlp[0].weight, 0.02),
        (head.mlp[2].weight, 0.02),
        (head.attention.out_proj.weight, 0.02),
        (head.fc.weight, 0.02e-3),
        (head.probe, 1.0),
    ):
        assert abs(weight.std().item() / std - 1) < 0.15
    assert all(not layer.bias.any() for layer in (head.fc, head.mlp[0], head.attention.out_proj))


@torch.no_grad()
@pytest.mark.parametrize("probe", [None, [3.5, 1, 0]])
def test_padded_packed_and_dense_inputs_give_one_answer(videos, probe):
    model = tiny(probe_position=probe)
    dense = model(videos).logits
    assert not torch.allclose(dense[0], dense[1], atol=1e-3)
    patches, grid = cut_patches(videos, 14)
    positions = grid_positions(*grid).expand(2, -1, -1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    padded = model(
        pixel_values_videos=nn.functional.pad(patches[:, order], (0, 0, 0, 3), value=9.0),
        patch_positions=nn.functional.pad(positions[:, order], (0, 0, 0, 3)),
        pixel_attention_mask=torch.arange(19).expand(2, -1) < 16,
    ).logits
    packed = model(
        pixel_values_videos=patches.flatten(0, 1),
        patch_positions=positions.flatten(0, 1),
        cu_seqlens=torch.tensor([0, 16, 32]),
    ).logits
    torch.testing.assert_close(padded, dense, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed, dense, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_only_a_probe_with_a_position_sees_where_a_token_lies():
    tokens = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.randint(0, 8, (1, 6, 3), generator=torch.Generator().manual_seed(1))
    mirrored = positions * torch.tensor([1, 1, -1]) + torch.tensor([0, 0, 7])
    plain, placed, moved = (OneVisionAttentiveHead(64, 3, at) for at in (None, (0, 0, 0), (2, 0, 1)))
    for head in (placed, moved):
        head.load_state_dict(plain.state_dict())
    assert torch.equal(plain(tokens, positions), plain(tokens, mirrored))
    assert not torch.allclose(placed(tokens, positions), placed(tokens, mirrored), atol=1e-3)
    # Only offsets from the probe count.
    shifted = positions + torch.tensor([2, 0, 1])
    torch.testing.assert_close(moved(tokens, shifted), placed(tokens, positions), rtol=1e-5, atol=1e-5)


def test_a_probe_with_a_position_needs_positions_and_heads_that_can_be_split():
    with pytest.raises(ValueError, match=r"probe stands at .*positions of the tokens are needed"):
        OneVisionAttentiveHead(64, 3, (0, 0, 0))(torch.zeros(1, 2, 64))
    with pytest.raises(ValueError, match="multiple of 32 channels, hidden_size 80 gives 1 of 80"):
        OneVisionAttentiveHead(80, 3, (0, 0, 0))
    with pytest.raises(Exception, match=r"probe_position must be \[t, h, w\], got \[0, 0\]"):
        OneVisionConfig.tiny(probe_position=[0, 0])
    with pytest.raises(Exception, match="label_smoothing must be from 0 to below 1"):
        OneVisionConfig.tiny(label_smoothing=1.0)


def test_the_loss_smooths_labels_and_leaves_out_what_has_none(videos):
    model, labels = tiny(label_smoothing=0.2), torch.tensor([2, 1])
    outputs = model(videos, labels=labels)
    logs = outputs.logits.log_softmax(-1)
    expected = -(0.8 * logs[range(2), labels] + 0.2 * logs.mean(-1)).mean()
    torch.testing.assert_close(outputs.loss, expected)
    alone = model(videos[:1], labels=labels[:1]).loss
    torch.testing.assert_close(model(videos, labels=torch.tensor([2, -100])).loss, alone)


LOGITS = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -3.0]])
CLASSES, SEVERAL = torch.tensor([2, 0]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.25]])
NUMBERS = torch.tensor([[0.1, 2.0, -1.0], [4.0, 0.0, 0.5]])


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        ("single_label_classification", CLASSES, nn.CrossEntropyLoss()(LOGITS, CLASSES)),
        ("single_label_classification", CLASSES.int(), nn.CrossEntropyLoss()(LOGITS, CLASSES)),
        ("multi_label_classification", SEVERAL, nn.BCEWithLogitsLoss()(LOGITS, SEVERAL)),
        (
            "multi_label_classification",
            SEVERAL > 0.5,
            nn.BCEWithLogitsLoss()(LOGITS, (SEVERAL > 0.5).float()),
        ),
        ("regression", NUMBERS, nn.MSELoss()(LOGITS, NUMBERS)),
        ("regression", NUMBERS.double(), nn.MSELoss()(LOGITS, NUMBERS)),
    ],
)
def test_the_loss_is_that_of_the_problem(problem, labels, expected):
    config = OneVisionConfig.tiny(id2label=NAMES, problem_type=problem)
    torch.testing.assert_close(classification_loss(config, LOGITS, labels), expected)
    # What nobody named is told by the labels, and is then the configuration's.
    unnamed = OneVisionConfig.tiny(id2label=NAMES)
    if problem != "regression":
        torch.testing.assert_close(classification_loss(unnamed, LOGITS, labels), expected)
        assert unnamed.problem_type == problem


def test_whole_numbers_are_marks_where_the_problem_says_so():
    config = OneVisionConfig.tiny(id2label=NAMES, problem_type="multi_label_classification")
    marks = torch.tensor([[1, 0, 1], [0, 0, 1]])
    expected = nn.BCEWithLogitsLoss()(LOGITS, marks.float())
    torch.testing.assert_close(classification_loss(config, LOGITS, marks), expected)


@pytest.mark.parametrize("labels", [[2.5, -1.0], [[2.5], [-1.0]], [3, -1]])
def test_one_label_is_a_regression(videos, labels):
    torch.manual_seed(0)
    model = OneVisionForVideoClassification(OneVisionConfig.tiny(num_labels=1)).eval()
    outputs = model(videos, labels=torch.tensor(labels))
    assert outputs.logits.shape == (2, 1)
    expected = nn.MSELoss()(outputs.logits[:, 0], torch.tensor(labels).float().flatten())
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    assert model.classifier.fc.weight.grad.any() and model.config.problem_type == "regression"


def test_transformers_own_models_give_the_same_losses():
    for names, labels in (({0: "x"}, torch.tensor([1.0, -2.0])), (NAMES, CLASSES), (NAMES, SEVERAL)):
        ours, theirs = OneVisionConfig.tiny(id2label=names), OneVisionConfig.tiny(id2label=names)
        logits = LOGITS[:, : len(names)]
        expected = ForSequenceClassificationLoss(labels, logits, theirs)
        torch.testing.assert_close(classification_loss(ours, logits, labels), expected)
        assert ours.problem_type == theirs.problem_type


def test_a_problem_stays_in_the_folder(videos, tmp_path):
    model = tiny()
    loss = model(videos, labels=SEVERAL).loss
    model.save_pretrained(tmp_path)
    again = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    assert again.config.problem_type == "multi_label_classification"
    torch.testing.assert_close(
        again(videos, labels=SEVERAL.int()).loss, model(videos, labels=SEVERAL.int()).loss
    )
    assert loss > 0


@pytest.mark.parametrize(
    ("problem", "labels", "says"),
    [
        (
            "single_label_classification",
            CLASSES[:, None],
            r"one integer a clip, \(2,\), found .* \(2, 1\) and",
        ),
        ("single_label_classification", CLASSES.float(), r"one integer a clip.* torch.float32 for 3 labels"),
        (
            "single_label_classification",
            CLASSES[:1],
            r"one integer a clip, \(2,\), found labels of shape \(1,\)",
        ),
        (None, SEVERAL.long(), r"one integer a clip.*problem_type='multi_label_classification'"),
        ("multi_label_classification", CLASSES, r"from 0 to 1 a clip and label, \(2, 3\), found .* \(2,\)"),
        (None, NUMBERS[:, :2], r"from 0 to 1 a clip and label, \(2, 3\), found .* \(2, 2\)"),
        ("regression", NUMBERS[:, 0], r"a number a clip and label, \(2, 3\), found .* \(2,\)"),
        ("regression", NUMBERS > 0, r"a number a clip and label, .* torch.bool"),
    ],
)
def test_labels_of_another_problem_are_an_error_that_names_both(problem, labels, says):
    config = OneVisionConfig.tiny(id2label=NAMES, problem_type=problem)
    with pytest.raises(ValueError, match=says):
        classification_loss(config, LOGITS, labels)
    assert config.problem_type == problem


def test_only_classes_are_smoothed():
    config = OneVisionConfig.tiny(id2label=NAMES, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"label_smoothing 0.1 is of one class a clip, not multi_label"):
        classification_loss(config, LOGITS, SEVERAL)


@torch.no_grad()
def test_an_encoders_folder_gets_a_new_head_and_its_own_folder_comes_back(videos, tmp_path):
    torch.manual_seed(0)
    encoder = OneVisionModel(OneVisionConfig.tiny()).eval()
    encoder.save_pretrained(tmp_path / "encoder")
    model = AutoModelForVideoClassification.from_pretrained(
        tmp_path / "encoder", id2label=NAMES, probe_position=[0, 1, 1]
    ).eval()
    assert isinstance(model, OneVisionForVideoClassification)
    states = model.onevision_encoder(videos).last_hidden_state
    assert torch.equal(states, encoder(videos).last_hidden_state)
    assert not any("onevision_encoder.head" in name for name in model.state_dict())
    model.save_pretrained(tmp_path / "classifier")
    again = AutoModelForVideoClassification.from_pretrained(tmp_path / "classifier").eval()
    assert again.config.id2label == NAMES
    assert torch.equal(again(videos).logits, model(videos).logits)
    encoder.config.save_pretrained(tmp_path / "plain")
    assert "probe_position" not in (tmp_path / "plain" / "config.json").read_text()


class Clips(torch.utils.data.Dataset):
    """Random clips whose brightness is their class."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        pixels = torch.randn(3, 2, 28, 28, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": 0.1 * pixels + index % 3 - 1, "labels": index % 3}


@pytest.mark.parametrize("frozen", [True, False])
def test_it_works_with_the_trainer(tmp_path, frozen):
    def train(batch, parts):
        model = tiny(label_smoothing=0.1)
        if frozen:
            model.freeze_encoder()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        settings = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=parts, max_steps=6,
            learning_rate=5e-3, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
            disable_tqdm=True, seed=1, data_seed=1, lr_scheduler_type="constant",
        )  # fmt: skip
        trainer = Trainer(model, settings, train_dataset=Clips(), eval_dataset=Clips())
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert trainer.predict(Clips()).predictions.shape == (24, 3)
        return losses, moved

    losses, moved = train(8, 1)
    assert losses[-1] < losses[0]
    assert any(name.startswith("onevision_encoder") for name in moved) is not frozen
    assert "classifier.probe" in moved
    if frozen:  # micro-batches are averaged, not summed
        assert train(4, 2)[0] == pytest.approx(losses, rel=1e-3)


WITHOUT_PACKAGE = """
import sys
sys.modules["onevision_hf"] = None
import torch
from transformers import AutoModelForVideoClassification
folder, out = sys.argv[1:]
model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules.")
with torch.no_grad():
    logits = model(torch.linspace(-1, 1, 2 * 3 * 28 * 28).view(1, 3, 2, 28, 28)).logits
torch.save({"logits": logits, "names": model.config.id2label}, out)
"""


@pytest.mark.slow  # another interpreter; the file that it loads from is checked in test_onevision_checkpoints
@torch.no_grad()
def test_a_saved_classifier_carries_its_code(tmp_path):
    model = tiny(probe_position=[0, 0, 0])
    model.save_pretrained(tmp_path / "folder")
    subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(tmp_path / "folder"), str(tmp_path / "out.pt")],
        check=True, timeout=240, cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""},
    )  # fmt: skip
    found = torch.load(tmp_path / "out.pt")
    expected = model(torch.linspace(-1, 1, 2 * 3 * 28 * 28).view(1, 3, 2, 28, 28)).logits
    torch.testing.assert_close(found["logits"], expected, rtol=1e-5, atol=1e-5)
    assert found["names"] == NAMES

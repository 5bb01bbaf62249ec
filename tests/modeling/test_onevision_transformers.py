"""What transformers' users expect of a model: recording, training, adapters, precision, composition.

Run: python -m pytest tests/modeling/test_onevision_transformers.py
"""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import ImageClassifierOutput

from onevision_hf import OneVisionConfig, OneVisionModel


@pytest.fixture
def model() -> OneVisionModel:
    torch.manual_seed(0)
    return OneVisionModel(OneVisionConfig.tiny(initializer_range=0.2)).eval()


IMAGES = torch.randn(2, 3, 28, 42, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "millions"), [("base", 92.6), ("large", 315.5), ("huge", 650.1)])
def test_presets_have_the_published_sizes(size, millions):
    with torch.device("meta"):
        model = OneVisionModel(getattr(OneVisionConfig, size)())
    assert round(model.num_parameters() / 1e6, 1) == millions


def test_presets_take_other_settings_too():
    assert OneVisionConfig.base(patch_size=16, layer_norm_type="rms_norm").patch_size == 16
    assert OneVisionConfig.large().to_dict() == OneVisionConfig().to_dict()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"hidden_size": 96},
            StrictDataclassClassValidationError,
            "48 .hidden_size 96 / .* 2.*multiple of 32",
        ),
        ({"num_attention_heads": 3}, StrictDataclassClassValidationError, "64 cannot be .* 3"),
        ({"patch_size": 15}, StrictDataclassClassValidationError, "15 does not divide image_size 56.*60"),
        ({"layer_norm_type": "batch_norm"}, StrictDataclassClassValidationError, "'batch_norm'"),
        ({"num_hidden_layers": 0}, StrictDataclassClassValidationError, "num_hidden_layers must be positive"),
        ({"rope_temporal_size": -1}, StrictDataclassClassValidationError, "rope_temporal_size .* -1"),
        ({"hidden_size": "64"}, StrictDataclassFieldValidationError, "hidden_size.*expected int, got str"),
        ({"use_head": "yes"}, StrictDataclassFieldValidationError, "use_head.*expected bool, got str"),
    ],
)
def test_configurations_that_cannot_work_fail_at_once(options, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        OneVisionConfig.tiny(**options)


def test_lora_on_queries_and_values_trains_only_its_weights(model):
    peft = pytest.importorskip("peft")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    adapted.train()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the first step moves B only, because B starts at zero
        adapted(IMAGES).pooler_output.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2 and all("lora_" in name for name in trained)
    merged = adapted.merge_and_unload().state_dict()
    changed = {name for name, value in merged.items() if not torch.equal(value, before[name])}
    expected = {f"encoder.layers.{i}.self_attn.{n}.weight" for i in range(2) for n in ("q_proj", "v_proj")}
    assert changed == expected


@torch.no_grad()
def test_bfloat16_keeps_rotary_tables_in_float32(model):
    """Positions in the hundreds need more than the 8 bits that bfloat16 has of them."""
    patches = torch.randn(1, 12, 588, generator=torch.Generator().manual_seed(1))
    far = torch.stack([torch.arange(12) % 64, torch.arange(12) * 37 % 500, torch.arange(12) * 53 % 500], -1)[
        None
    ]
    cos, sin = model.video_rope(far, torch.float32)
    half = copy.deepcopy(model).to(torch.bfloat16)
    cos_half, sin_half = half.video_rope(far, torch.bfloat16)
    assert torch.equal(cos_half, cos.bfloat16()) and torch.equal(sin_half, sin.bfloat16())
    found = half(pixel_values_videos=patches, patch_positions=far)
    assert found.last_hidden_state.dtype == torch.bfloat16
    expected = model(pixel_values_videos=patches, patch_positions=far).last_hidden_state
    similarity = nn.functional.cosine_similarity(found.last_hidden_state.float(), expected, dim=-1)
    assert similarity.min() > 0.995


@torch.no_grad()
def test_grids_other_than_that_of_the_configuration_work_as_they_are(model):
    for height, width in ((14, 14), (98, 42), (28, 140)):
        output = model(torch.randn(1, 3, height, width))
        assert output.last_hidden_state.shape == (1, height * width // 196, 64)


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}


@torch.no_grad()
@pytest.mark.parametrize("layer", [-1, -2])
def test_stock_llava_sees_the_chosen_layer_through_our_vision_tower(layer):
    config = LlavaConfig(
        vision_config=OneVisionConfig.tiny().to_dict(),
        text_config=Qwen2Config(**TEXT),
        image_token_index=7,
        vision_feature_layer=layer,
        vision_feature_select_strategy="full",
    )
    vlm = LlavaForConditionalGeneration(config).eval()
    tower = vlm.model.vision_tower
    assert type(tower) is OneVisionModel
    pixels = torch.randn(1, 3, 56, 56)
    ids = torch.tensor([[1, *[7] * 16, 2]])
    logits = vlm(input_ids=ids, pixel_values=pixels).logits
    features = tower(pixels, output_hidden_states=True).hidden_states[layer]
    embeddings = vlm.get_input_embeddings()(ids)
    embeddings[0, 1:17] = vlm.model.multi_modal_projector(features)[0]
    torch.testing.assert_close(vlm(inputs_embeds=embeddings).logits, logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_stock_llava_onevision_runs_on_our_vision_tower():
    config = LlavaOnevisionConfig(
        vision_config=OneVisionConfig.tiny().to_dict(),
        text_config=Qwen2Config(**TEXT),
        image_token_index=7,
        video_token_index=8,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[56, 56]],
    )
    vlm = LlavaOnevisionForConditionalGeneration(config).eval()
    assert type(vlm.model.vision_tower) is OneVisionModel
    # Two crops of 16 patches (the whole image and one tile) and a line break for each row of the tile.
    ids = torch.tensor([[1, *[7] * (16 + 16 + 4), 2]])
    inputs = {"pixel_values": torch.randn(1, 2, 3, 56, 56), "image_sizes": torch.tensor([[56, 56]])}
    logits = vlm(input_ids=ids, **inputs).logits
    inputs["pixel_values"] = inputs["pixel_values"] + 1
    assert not torch.allclose(vlm(input_ids=ids, **inputs).logits, logits)


class Classifier(nn.Module):
    """The usual lifar head on the pooled output of the plain model."""

    def __init__(self, encoder: OneVisionModel, classes: int):
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, labels: torch.Tensor, **inputs: torch.Tensor) -> ImageClassifierOutput:
        logits = self.classifier(self.encoder(**inputs).pooler_output)
        return ImageClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


def stripes(frames: int | None) -> list[dict[str, torch.Tensor]]:
    """Two classes: stripes across or down; in videos, stripes that move or stand."""
    generator = torch.Generator().manual_seed(2)
    items = []
    for i in range(16):
        wave = torch.sin(torch.arange(28.0) / 2)
        if frames is None:
            pixels = wave.expand(28, 28).T if i % 2 else wave.expand(28, 28)
            pixels = pixels.expand(3, 28, 28)
        else:
            shifts = [2 * t * (i % 2) for t in range(frames)]
            pixels = torch.stack([wave.roll(shift).expand(28, 28) for shift in shifts]).expand(3, -1, -1, -1)
        noise = 0.1 * torch.randn(pixels.shape, generator=generator)
        items.append({"pixel_values": pixels + noise, "labels": torch.tensor(i % 2)})
    return items


@pytest.mark.parametrize("frames", [None, 4], ids=["images", "videos"])
def test_ten_steps_of_fine_tuning_learn_a_simple_classification(frames):
    torch.manual_seed(0)
    classifier = Classifier(OneVisionModel(OneVisionConfig.tiny()), 2)
    items = stripes(frames)
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    for _ in range(10):
        classifier(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (classifier(**batch).logits.argmax(-1) == batch["labels"]).float().mean() == 1


def test_the_trainer_trains_it_with_gradient_checkpointing(tmp_path):
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    encoder = OneVisionModel(OneVisionConfig.tiny())
    encoder.gradient_checkpointing_enable()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    before = encoder.encoder.layers[0].self_attn.q_proj.weight.clone()
    result = Trainer(Classifier(encoder, 2), arguments, train_dataset=stripes(None)).train()
    assert result.global_step == 3
    assert not torch.equal(encoder.encoder.layers[0].self_attn.q_proj.weight, before)

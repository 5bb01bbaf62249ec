"""Pixels reach the answer, and so do the positions of patches: tiny models learn, and fail without them.

Run: python -m pytest tests/modeling/test_vl_evidence.py
"""

import numpy as np
import pytest
import torch
from clips import write_clip
from torch import Tensor
from vl_tiny import tiny_config, tiny_model, tiny_processor

from onevision_hf import OneVisionConfig

pytestmark = pytest.mark.timeout(1500)  # a busy machine must not fail a test

COLOURS = np.array([(230, 40, 40), (40, 200, 40), (50, 60, 230)])
SHAPES = ((42, 42), (14, 56))  # a square and a bar: height, width
# Rates at which it is learnt, and steps to spare. Accuracy on what was held out: pictures 1.0, 1.0 and 0.995
# for seeds 0 to 2. Clips stay at chance for a while, then fall within 50 steps. With 200 steps seeds 1 and 2
# got 1.0, but for seed 0 the rate went down too soon; with 400 it gets 1.0, most of it by step 150. Twice the
# rate is a lottery: seed 2 stayed at chance.
STEPS_PICTURES, STEPS_CLIPS = 100, 400
RATE_PICTURES, RATE_CLIPS = 2e-3, 1e-3
CLIPS, HELD_OUT = 300, 60
LETTERS = [ord(letter) for letter in "ABCDEF"]  # a letter for each colour and shape


def noisy_picture(rng: np.random.Generator, answer: int) -> np.ndarray:
    """The shape in the colour of the answer, somewhere, in strong noise."""
    picture = np.full((56, 56, 3), 128.0)
    height, width = SHAPES[answer % 2]
    y, x = (14 * int(rng.integers(0, (56 - side) // 14 + 1)) for side in (height, width))
    picture[y : y + height, x : x + width] = COLOURS[answer // 2]
    return (picture + rng.normal(0, 40, picture.shape)).clip(0, 255).astype(np.uint8)


def asked(processor, rng: np.random.Generator, count: int) -> tuple[dict[str, Tensor], Tensor]:
    """`count` pictures, all with the same question, and the letters that are right."""
    answers = rng.integers(0, 6, count)
    inputs = processor(
        text=["<|image_pad|>which?"] * count, images=[noisy_picture(rng, answer) for answer in answers]
    )
    return dict(inputs), torch.tensor(LETTERS)[torch.from_numpy(answers)]


def letters(logits: Tensor) -> Tensor:
    """The best of the letters at the last place of each prompt."""
    return torch.tensor(LETTERS)[logits[:, -1, LETTERS].argmax(-1)]


def learn(model, batches, loss_of, steps: int, lr: float) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(*batches[step % len(batches)]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def test_colour_and_shape_of_noisy_pictures_reach_the_answer():
    model = tiny_model("patch_merger", vision_feature_layer=-1)
    processor, rng = tiny_processor(model.config), np.random.default_rng(0)
    batches = [asked(processor, rng, 32) for _ in range(40)]

    def loss_of(inputs, right):
        return torch.nn.functional.cross_entropy(model(**inputs, logits_to_keep=1).logits[:, -1], right)

    learn(model, batches, loss_of, STEPS_PICTURES, RATE_PICTURES)
    inputs, right = asked(processor, rng, 200)
    with torch.no_grad():
        seen = letters(model(**inputs).logits)
        inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
        blind = letters(model(**inputs).logits)
    assert (seen == right).float().mean() >= 0.95
    assert (blind == right).float().mean() <= 1 / 6 + 0.1  # chance, and more than three deviations


def two_events(folder, rng: np.random.Generator, number: int, first: int) -> str:
    """A still ground on which a red and a blue square light up, one after the other; `first` is the red one's
    turn."""
    clip = np.repeat(np.full((1, 56, 56, 3), 110, np.uint8), 16, 0)
    clip += rng.integers(0, 30, (1, 56, 56, 3), dtype=np.uint8)
    starts = np.sort(rng.choice(np.arange(2, 13, 3), 2, replace=False))
    for colour, start in zip((0, 2), starts if first == 0 else starts[::-1], strict=True):
        y, x = rng.integers(0, 3, 2) * 14
        clip[start : start + 3, y : y + 28, x : x + 28] = COLOURS[colour]
    return str(write_clip(folder / f"{number}.mp4", clip))


@pytest.mark.slow
def test_the_order_of_two_events_is_read_from_positions_of_codec_patches(tmp_path):
    """The language model sees one pooled token of a clip, so that the order of tokens tells it nothing."""
    rng = np.random.default_rng(1)
    turns = rng.integers(0, 2, CLIPS)
    # Frequencies for distances of a few patches, as the tiny encoder of the package has: learnt sooner.
    tower = OneVisionConfig.tiny(initializer_range=0.1, rope_theta=100)
    processor = tiny_processor(tiny_config())
    clips = [
        processor.read_video(two_events(tmp_path, rng, n, turn), num_frames=16, num_patches=40)
        for n, turn in enumerate(turns)
    ]
    assert all(len(clip) == 40 and len(set(clip.frames.tolist())) > 1 for clip in clips)
    prompt_ids = torch.tensor(processor.tokenizer("<|video_pad|>which is first?")["input_ids"])

    def answers(model, numbers, positioned: bool) -> Tensor:
        lengths = torch.tensor([0, *(len(clips[n]) for n in numbers)]).cumsum(0)
        positions = torch.cat([torch.from_numpy(clips[n].positions) for n in numbers])
        features = model.get_video_features(
            torch.cat([torch.from_numpy(clips[n].patches) for n in numbers]),
            positions if positioned else torch.zeros_like(positions),
            lengths,
        ).pooler_output
        pooled = {"video": [own.mean(0, keepdim=True) for own in features]}
        ids = prompt_ids.expand(len(numbers), -1)
        return model(input_ids=ids, mm_encoder_outputs=pooled, logits_to_keep=1).logits

    def accuracy(positioned: bool) -> float:
        model = tiny_model(vision=tower, vision_feature_layer=-1)
        right = torch.tensor(LETTERS)[torch.from_numpy(turns)]
        batches = [(np.arange(start, start + 20),) for start in range(0, CLIPS - HELD_OUT, 20)]

        def loss_of(numbers):
            logits = answers(model, numbers, positioned)[:, -1]
            return torch.nn.functional.cross_entropy(logits, right[numbers])

        # With positions most of it is learnt in half of the steps; without them time does not help.
        learn(model, batches, loss_of, STEPS_CLIPS if positioned else STEPS_CLIPS // 2, RATE_CLIPS)
        held_out = np.arange(CLIPS - HELD_OUT, CLIPS)
        with torch.no_grad():
            return float((letters(answers(model, held_out, positioned)) == right[held_out]).float().mean())

    assert accuracy(positioned=True) >= 0.95
    assert 0.5 - 0.2 <= accuracy(positioned=False) <= 0.5 + 0.2  # chance, and three deviations

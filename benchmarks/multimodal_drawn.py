"""Evidence: the package's tiny encoder and a tiny language model answer drawn questions about clips not seen.

    make bench-multimodal-drawn                                     # minutes on two cores
    python benchmarks/multimodal_drawn.py --out out/drawn --clips 300 --steps 200

Clips of one moving shape are drawn, and four questions asked of each: which way, how fast, what colour, what
shape; with lettered choices, or open. A language model of half a million random parameters and a tokenizer of
the questions' words are put behind `onevision_hf.tiny()` with `onevision assemble`'s own function; the
connector and the language model learn, the tower stays as it is, so its features are computed once. Asked
about clips of another seed, with their pixels and with zeros instead. What is trained is a folder for
`onevision chat`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import onevision_hf
from onevision_hf.conversion.multimodal import assemble
from onevision_hf.modeling.processing_onevision_vl import NOT_LEARNED
from onevision_hf.synthetic import CLIP_FAMILIES, Job, produce, read_manifest
from onevision_hf.synthetic.dice import Dice
from onevision_hf.synthetic.questions import ask

FAMILIES = ("direction", "speed", "mover_colour", "mover_shape")
TRAIN_SEED, TEST_SEED = 3001, 4001  # onevision-tiny was trained on clips of the seeds 1 and 2
SETTINGS = {"size": 64, "num_frames": 64, "num_patches": 256}


class Clips:
    """Drawn clips, read once, with the label of each family."""

    def __init__(self, folder: Path, seed: int, count: int, processor):
        media = folder / f"clips-{seed}"
        produce(Job("clips", seed, "direction"), media, count)
        rows = read_manifest(media).select(["path", "labels"]).to_pylist()[:count]
        self.paths = [str(media / row["path"]) for row in rows]
        self.labels = [{name: row["labels"][name] for name in FAMILIES} for row in rows]
        self.read = [processor.read_video(path) for path in self.paths]


def turn(family: str, label: str, dice: Dice, lettered: bool) -> tuple[str, str]:
    """A question and its answer."""
    question = ask(CLIP_FAMILIES[family], label, dice)
    return (question.prompt(), question.answer) if lettered else (question.text, label)


def make_language_model(folder: Path) -> None:
    """A tokenizer of the words of all questions, and random weights."""
    dice = Dice(0, "words")
    texts = [
        f"{asked}\n{answer}"
        for name in FAMILIES
        for label in CLIP_FAMILIES[name].labels
        for lettered in (True, False)
        for asked, answer in [turn(name, label, dice, lettered) for _ in range(4)]
    ]
    texts += ["<|im_start|>system\nYou are a helpful assistant.", "user\n", "assistant\n"]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=2048
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, head_dim=32, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)


@torch.no_grad()
def tower_features(model, clips: Clips, blank: bool = False, batch: int = 20) -> Tensor:
    """(clips, patches, width): the tower is not trained, so this is done once."""
    found = []
    for start in range(0, len(clips.read), batch):
        part = clips.read[start : start + batch]
        patches = torch.cat([torch.from_numpy(clip.patches) for clip in part])
        positions = torch.cat([torch.from_numpy(clip.positions) for clip in part])
        lengths = torch.tensor([0, *map(len, part)]).cumsum(0)
        features = model.get_video_features(patches * (not blank), positions, lengths).last_hidden_state
        found.append(features.view(len(part), -1, features.shape[-1]))
    return torch.cat(found)


def batch_of(processor, clips: Clips, numbers: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """Conversations of four questions each, one after another in a row."""
    ids, labels, places = [], [], []
    for number in numbers:
        messages = []
        for place, family in enumerate(rng.permutation(FAMILIES)):
            dice = Dice(int(rng.integers(2**31)), "turn")
            label = clips.labels[number][family]
            asked, answer = turn(family, label, dice, lettered=bool(rng.integers(2)))
            medium = [{"type": "video", "video": clips.read[number]}] if place == 0 else []
            messages.append({"role": "user", "content": [*medium, {"type": "text", "text": asked}]})
            messages.append({"role": "assistant", "content": answer})
        one = processor.encode_dialogue(messages)
        ids.append(one["input_ids"])
        labels.append(one["labels"])
        places.append(torch.arange(len(one["input_ids"])))
    return {"input_ids": torch.cat(ids), "labels": torch.cat(labels), "position_ids": torch.cat(places)}


def train(model, processor, clips: Clips, features: Tensor, steps: int, lr: float, batch: int) -> None:
    rng = np.random.default_rng(0)
    trained = [*model.connector.parameters(), *model.language_model.parameters()]
    optimizer = torch.optim.AdamW(trained, lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    model.train()
    start = time.perf_counter()
    for step in range(steps):
        numbers = rng.choice(len(clips.read), batch, replace=False)
        text = batch_of(processor, clips, numbers, rng)
        seen = [model.connector(features[number]) for number in numbers]
        asked = (text["labels"][1:] != NOT_LEARNED).nonzero()[:, 0]
        logits = model(
            input_ids=text["input_ids"][None],
            position_ids=text["position_ids"][None],
            mm_encoder_outputs={"video": seen},
            use_cache=False,
            logits_to_keep=asked,
        ).logits[0]
        loss = nn.functional.cross_entropy(logits, text["labels"][1:][asked])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(model, processor, clips: Clips, features: Tensor, lettered: bool, batch: int = 50) -> dict:
    """Family -> (share of right answers, chance), each question asked alone, answered by `generate`."""
    found = {}
    for family in FAMILIES:
        turns = [
            turn(family, labels[family], Dice(n, "test", family), lettered)
            for n, labels in enumerate(clips.labels)
        ]
        right = 0
        for start in range(0, len(turns), batch):
            part = range(start, min(start + batch, len(turns)))
            conversations = [
                [{"role": "user", "content": [
                    {"type": "video", "video": clips.read[n]}, {"type": "text", "text": turns[n][0]}]}]
                for n in part
            ]  # fmt: skip
            inputs = processor.apply_chat_template(
                conversations, tokenize=True, return_dict=True, add_generation_prompt=True
            )
            seen = [model.connector(features[n]) for n in part]
            output = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                mm_encoder_outputs={"video": seen}, max_new_tokens=6, do_sample=False,
            )  # fmt: skip
            said = processor.tokenizer.batch_decode(
                output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            right += sum(s.strip() == turns[n][1] for s, n in zip(said, part, strict=True))
        choices = len(CLIP_FAMILIES[family].labels)
        found[family] = (right / len(turns), 1 / min(4, choices) if lettered else 1 / choices)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/multimodal-drawn"))
    parser.add_argument("--encoder", default="", help="a folder (default: the package's tiny encoder)")
    parser.add_argument("--clips", type=int, default=1500, help="to learn from")
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=12, help="clips a step, four questions each")
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.out / "model"
    if not (args.out / "assembled").exists():
        make_language_model(args.out / "llm")
        made = assemble(
            args.encoder or onevision_hf.tiny(), args.out / "llm", args.out / "assembled",
            connector="patch_merger", video=SETTINGS,
        )  # fmt: skip
        print(json.dumps(made.to_dict()))
    start = folder if folder.exists() else args.out / "assembled"
    model = AutoModelForImageTextToText.from_pretrained(start).eval()
    processor = AutoProcessor.from_pretrained(start)
    held_out = Clips(args.out, TEST_SEED, args.held_out, processor)
    if not folder.exists():
        clips = Clips(args.out, TRAIN_SEED, args.clips, processor)
        print(f"{len(clips.read)} clips read", flush=True)
        train(model, processor, clips, tower_features(model, clips), args.steps, args.lr, args.batch)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    seen = tower_features(model, held_out)
    blind = tower_features(model, held_out, blank=True)
    print(f"\n{len(held_out.read)} held-out clips | question | with pixels | pixels zeroed | chance")
    for lettered in (True, False):
        form = "letter" if lettered else "open"
        both = [accuracy(model, processor, held_out, features, lettered) for features in (seen, blind)]
        for family in FAMILIES:
            (with_pixels, chance), (without, _) = (one[family] for one in both)
            print(f"| {form} | {family} | {with_pixels:.3f} | {without:.3f} | {chance:.3f} |")
        means = [np.mean([one[family][0] for family in FAMILIES]) for one in both]
        chance = np.mean([both[0][family][1] for family in FAMILIES])
        print(f"| {form} | mean | {means[0]:.3f} | {means[1]:.3f} | {chance:.3f} |", flush=True)


if __name__ == "__main__":
    main()

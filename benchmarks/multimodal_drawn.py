"""Evidence: the package's tiny encoder and a tiny language model answer drawn questions about clips not seen.

    make bench-multimodal-drawn                                     # minutes on two cores
    python benchmarks/multimodal_drawn.py --out out/drawn --clips 300 --steps 200
    python benchmarks/multimodal_drawn.py --device cuda --workers 16 --clips 8000 --steps 4000 --batch 48

Clips of one moving shape are drawn, and four questions asked of each: which way, how fast, what colour, what
shape; with lettered choices, or open. A language model of half a million random parameters and a tokenizer of
the questions' words are put behind `onevision_hf.tiny()` with `onevision assemble`'s own function; the
connector and the language model learn, the tower stays as it is, so its features are computed once. Asked
about clips of another seed, with their pixels and with zeros instead. What is trained is OUT/model, a folder
for `onevision chat`; the figures are in OUT/result.json too.
"""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
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
from onevision_hf.synthetic.questions import ask
from onevision_hf.synthetic.rng import StableRNG

FAMILIES = ("direction", "speed", "mover_colour", "mover_shape")
TRAIN_SEED, TEST_SEED = 3001, 4001  # onevision-tiny was trained on clips of the seeds 1 and 2
SETTINGS = {"size": 64, "num_frames": 64, "num_patches": 256}


class Clips:
    """Drawn clips, read once, with the label of each family."""

    def __init__(self, folder: Path, seed: int, count: int, processor, workers: int):
        media = folder / f"clips-{seed}"
        produce(Job("clips", seed, "direction"), media, count, workers=workers)
        rows = read_manifest(media).select(["path", "labels"]).to_pylist()[:count]
        self.paths = [str(media / row["path"]) for row in rows]
        self.labels = [{name: row["labels"][name] for name in FAMILIES} for row in rows]
        if workers == 1:
            self.read = [processor.read_video(path) for path in self.paths]
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, use_processor, (processor,)) as pool:
            self.read = list(pool.map(read_clip, self.paths, chunksize=8))


def use_processor(processor) -> None:
    """Of a process that reads clips."""
    global _processor
    _processor = processor
    torch.set_num_threads(1)


def read_clip(path: str):
    return _processor.read_video(path)


def turn(family: str, label: str, stable_rng: StableRNG, lettered: bool) -> tuple[str, str]:
    """A question and its answer."""
    question = ask(CLIP_FAMILIES[family], label, stable_rng)
    return (question.prompt(), question.answer) if lettered else (question.text, label)


def make_language_model(folder: Path) -> None:
    """A tokenizer of the words of all questions, and random weights."""
    stable_rng = StableRNG(0, "words")
    texts = [
        f"{asked}\n{answer}"
        for name in FAMILIES
        for label in CLIP_FAMILIES[name].labels
        for lettered in (True, False)
        for asked, answer in [turn(name, label, stable_rng, lettered) for _ in range(4)]
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
def tower_features(model, clips: Clips, batch: int, blank: bool = False) -> Tensor:
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


class Steps(Dataset):
    """Step -> which clips, and a conversation about each: four questions in any order, in either form."""

    def __init__(self, processor, clips: Clips, steps: int, batch: int):
        self.processor, self.clips, self.steps, self.batch = processor, clips, steps, batch

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers (B,), ids and labels (B, L), padded on the right: a causal model does not see that."""
        rng = np.random.default_rng(step)
        numbers = rng.choice(len(self.clips.read), self.batch, replace=False)
        rows = [self.conversation(int(number), rng) for number in numbers]
        ids = pad_sequence([row["input_ids"] for row in rows], batch_first=True)
        labels = pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=NOT_LEARNED)
        return torch.from_numpy(numbers), ids, labels

    def conversation(self, number: int, rng: np.random.Generator) -> dict[str, Tensor]:
        messages = []
        for place, family in enumerate(rng.permutation(FAMILIES)):
            stable_rng = StableRNG(int(rng.integers(2**31)), "turn")
            label = self.clips.labels[number][family]
            asked, answer = turn(family, label, stable_rng, lettered=bool(rng.integers(2)))
            medium = [{"type": "video", "video": self.clips.read[number]}] if place == 0 else []
            messages.append({"role": "user", "content": [*medium, {"type": "text", "text": asked}]})
            messages.append({"role": "assistant", "content": answer})
        return self.processor.encode_dialogue(messages)


def train(model, batches: DataLoader, features: Tensor, lr: float) -> None:
    steps = len(batches)
    trained = [*model.connector.parameters(), *model.language_model.parameters()]
    optimizer = torch.optim.AdamW(trained, lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    model.train()
    start = time.perf_counter()
    for step, batch in enumerate(batches):
        numbers, ids, labels = (tensor.to(model.device) for tensor in batch)
        seen = model.connector(features[numbers].flatten(0, 1))
        logits = model(input_ids=ids, mm_encoder_outputs={"video": [seen]}, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def accuracy(
    model, processor, clips: Clips, features: list[Tensor], lettered: bool, batch: int
) -> dict[str, list[float]]:
    """Family -> the share of right answers with each of the `features`, and chance. Each question is asked
    alone and answered by `generate`.
    """
    found = {}
    for family in FAMILIES:
        turns = [
            turn(family, labels[family], StableRNG(n, "test", family), lettered)
            for n, labels in enumerate(clips.labels)
        ]
        right = [0] * len(features)
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
            text = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
            for number, own in enumerate(features):
                output = model.generate(
                    **text, mm_encoder_outputs={"video": [model.connector(own[n]) for n in part]},
                    max_new_tokens=6, do_sample=False,
                )  # fmt: skip
                said = processor.tokenizer.batch_decode(
                    output[:, text["input_ids"].shape[1] :], skip_special_tokens=True
                )
                right[number] += sum(s.strip() == turns[n][1] for s, n in zip(said, part, strict=True))
        choices = len(CLIP_FAMILIES[family].labels)
        chance = 1 / min(4, choices) if lettered else 1 / choices
        found[family] = [*(count / len(turns) for count in right), chance]
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw, read and write prompts")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.out / "model"
    if not (args.out / "assembled").exists():
        make_language_model(args.out / "llm")
        made = assemble(
            args.encoder or onevision_hf.tiny(), args.out / "llm", args.out / "assembled",
            connector="patch_merger", vision_feature_layer=-1, video=SETTINGS,
        )  # fmt: skip
        print(json.dumps(vars(made)))
    source = folder if folder.exists() else args.out / "assembled"
    processor = AutoProcessor.from_pretrained(source)
    start = time.perf_counter()
    held_out = Clips(args.out, TEST_SEED, args.held_out, processor, args.workers)
    clips = None if folder.exists() else Clips(args.out, TRAIN_SEED, args.clips, processor, args.workers)
    print(f"clips drawn and read, {time.perf_counter() - start:.0f} s", flush=True)
    model = AutoModelForImageTextToText.from_pretrained(source).to(args.device).eval()
    at_once = 20 if args.device == "cpu" else 256
    if clips is not None:
        steps = Steps(processor, clips, args.steps, args.batch)
        batches = DataLoader(steps, batch_size=None, num_workers=max(args.workers - 1, 1))
        train(model, batches, tower_features(model, clips, at_once), args.lr)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    seen = tower_features(model, held_out, at_once)
    blind = tower_features(model, held_out, at_once, blank=True)
    print(f"\n{len(held_out.read)} held-out clips | question | with pixels | pixels zeroed | chance")
    result: dict = {"clips": args.clips, "steps": args.steps, "batch": args.batch, "held_out": args.held_out}
    for lettered in (True, False):
        form = "letter" if lettered else "open"
        found = accuracy(model, processor, held_out, [seen, blind], lettered, 2 * at_once)
        found["mean"] = [float(np.mean(column)) for column in zip(*found.values(), strict=True)]
        for family, (with_pixels, without, chance) in found.items():
            print(f"| {form} | {family} | {with_pixels:.3f} | {without:.3f} | {chance:.3f} |", flush=True)
        result[form] = found
    seconds = time.perf_counter() - start
    print(f"{seconds:.0f} s on {args.device}, torch {torch.__version__}")
    result |= {"seconds": seconds, "device": args.device}
    (args.out / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Answering many questions about clips, against a plain loop over them.

    make bench-eval                     # about five minutes on two cores
    python benchmarks/evaluation.py --clips 3 --requests 60

Drawn clips of 64 frames, 360 x 640, H.264, three questions each; a multimodal model of a few million
parameters, random weights, codec input. Each way of answering is timed in turn, several times over; ratios
are medians of the same turn. Then memory, over 500 requests.
"""

import argparse
import gc
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from onevision_hf import OneVisionConfig, OneVisionVLConfig, OneVisionVLForConditionalGeneration
from onevision_hf.eval.lmms.answering import Answering
from onevision_hf.eval.lmms.questions import Question
from onevision_hf.eval.lmms.settings import Settings
from onevision_hf.synthetic import ClipSettings, ask_clip, encode

QUESTIONS = 3
GENERATION = {"max_new_tokens": 16, "do_sample": False}
BUDGET = {"num_frames": 64, "num_patches": 1024}


def tiny() -> tuple[Any, Any]:
    """A model whose encoder, prompt and answer each take a fair part of the time, and its processor."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from vl_tiny import tiny_processor, tiny_text_config

    vision = OneVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, image_size=224
    )
    text = tiny_text_config(
        hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=8, head_dim=32
    )
    config = OneVisionVLConfig(
        text_config=text,
        vision_config=vision,
        connector="patch_merger",
        image_token_id=259,
        video_token_id=260,
    )
    torch.manual_seed(0)
    model = OneVisionVLForConditionalGeneration(config).eval()
    # It knows nothing; an answer that ends at once would time nothing.
    model.generation_config.suppress_tokens = [*model.generation_config.suppress_tokens, 256, 258]
    return model, tiny_processor(config, size=224)


def draw(folder: Path, count: int) -> list[tuple[Path, list[str]]]:
    """Clips with what is asked of each."""
    found = []
    for index in range(count):
        clip, questions = ask_clip(0, index, settings=ClipSettings(num_frames=64, height=360, width=640))
        path = folder / f"{index}.mp4"
        path.write_bytes(encode(clip.frames))
        texts = [
            questions[i % len(questions)].prompt() + " " * (i // len(questions)) for i in range(QUESTIONS)
        ]
        found.append((path, texts))
    return found


def conversation(path: Path, text: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [{"type": "video", "video": str(path)}, {"type": "text", "text": text}]}
    ]


def asked(clips: list[tuple[Path, list[str]]]) -> list[Question]:
    return [
        Question(lambda path=path, text=text: conversation(path, text), GENERATION, videos=(str(path),))  # type: ignore[misc]
        for path, texts in clips
        for text in texts
    ]


def apart(clips: list[tuple[Path, list[str]]], folder: Path) -> list[tuple[Path, list[str]]]:
    """Each question about a file of its own, so that nothing can be shared."""
    alone = []
    for path, texts in clips:
        for number, text in enumerate(texts):
            copy = folder / f"{path.stem}-{number}.mp4"
            if not copy.exists():
                os.link(path, copy)
            alone.append((copy, [text]))
    return alone


def straight(model: Any, processor: Any, clips: list[tuple[Path, list[str]]]) -> None:
    """One request at a time: read, cut, encode, generate."""
    for path, texts in clips:
        for text in texts:
            inputs = processor.apply_chat_template(
                conversation(path, text),
                tokenize=True,
                return_dict=True,
                add_generation_prompt=True,
                processor_kwargs=BUDGET,
            )
            with torch.inference_mode():
                model.generate(**inputs, **GENERATION, eos_token_id=256, pad_token_id=256)


def timed(work: Callable[[], Any]) -> float:
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(model: Any, processor: Any, clips: list[tuple[Path, list[str]]], turns: int) -> None:
    with tempfile.TemporaryDirectory(dir=clips[0][0].parent) as folder:
        alone = apart(clips, Path(folder))
        waits: list[float] = []

        def ours(clips: list[tuple[Path, list[str]]], **settings: Any) -> Answering:
            answering = Answering(model, processor, Settings("random", processor=BUDGET, **settings))
            answering.answer(asked(clips), lambda outcomes: None)
            return answering

        def together() -> None:
            statistics_ = ours(clips).statistics
            waits.append(statistics_.waited / statistics_.seconds)

        ways: dict[str, Callable[[], Any]] = {
            "a plain loop": lambda: straight(model, processor, clips),
            "reading ahead alone": lambda: ours(alone, batch_size=1, feature_cache_mb=0),
            "batching alone": lambda: ours(alone, feature_cache_mb=0),
            "the cache alone": lambda: ours(clips, batch_size=1),
            "all together": together,
        }
        straight(model, processor, clips[:1])  # warm
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns):
            for name, work in ways.items():
                seconds[name].append(timed(work))
    plain = seconds["a plain loop"]
    requests = len(clips) * QUESTIONS
    print(f"{requests} requests, {turns} turns, {torch.get_num_threads()} threads of torch")
    for name, taken in seconds.items():
        ratio = statistics.median(own / base for own, base in zip(taken, plain, strict=True))
        print(f"{name:22} {statistics.median(taken) / requests * 1000:7.0f} ms a request   ratio {ratio:.2f}")
    print(f"waiting for data, of the time of all together: {statistics.median(waits):.0%}")


def memory(model: Any, processor: Any, clips: list[tuple[Path, list[str]]], requests: int) -> None:
    """Resident memory along `requests` requests about clips that all differ, with a small cache."""
    folder = clips[0][0].parent / "many"
    folder.mkdir()
    many = []
    for number in range(-(-requests // QUESTIONS)):
        path, texts = clips[number % len(clips)]
        copy = folder / f"{number}.mp4"
        os.link(path, copy)
        many.append((copy, texts))
    answering = Answering(model, processor, Settings("random", processor=BUDGET, feature_cache_mb=4))
    answered, sizes = 0, []

    def done(outcomes: list[Any]) -> None:
        nonlocal answered
        answered += len(outcomes)
        sizes.append((answered, resident()))

    answering.answer(asked(many)[:requests], done)
    settled = next(size for count, size in sizes if count >= requests // 5)
    late = statistics.median(size for count, size in sizes if count >= requests * 4 // 5)
    print(
        f"memory over {requests} requests: {settled:.0f} MB after a fifth, {late:.0f} MB in the last fifth "
        f"({late - settled:+.0f}), peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB; "
        f"features held: {answering.cache.size / 2**20:.1f} of 4 MB"
    )


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--requests", type=int, default=500, help="of the memory run; 0 for none")
    args = parser.parse_args()
    model, processor = tiny()
    with tempfile.TemporaryDirectory() as folder:
        clips = draw(Path(folder), args.clips)
        compare(model, processor, clips, args.turns)
        if args.requests:
            memory(model, processor, clips, args.requests)


if __name__ == "__main__":
    main()

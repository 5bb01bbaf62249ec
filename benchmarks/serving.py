"""vLLM against transformers' `generate` in batches, and what the cache of encoded clips saves.

    make bench-vllm                                          # a minute, where `make test-vllm` runs
    python benchmarks/serving.py --requests 64 --clips 16 --json figures.json

64 questions about 16 drawn clips, about each of them in turn, answered greedily with 32 tokens by the tiny
model of the tests (random weights): the language model costs next to nothing, so that what is compared is
reading, encoding and scheduling. Each way reads the clips' files itself. Time to the first token is that of
one request alone whose answer is one token.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("", "vllmenv")]
TOKENS = 32
RUNS = 5  # of which the fastest counts: what else the machine does only takes time


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def generate(folder: Path, asked: list[Any], batch: int) -> None:
    import torch
    from folders import of_transformers

    model, processor = of_transformers(folder)
    with torch.no_grad():
        for start in range(0, len(asked), batch):
            inputs = processor.apply_chat_template(
                asked[start : start + batch], tokenize=True, return_dict=True, add_generation_prompt=True
            )
            model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)


def engine(folder: Path, clips: Path, **settings: Any) -> Any:
    from vllm import LLM

    return LLM(
        str(folder), dtype="float32", enforce_eager=True, max_model_len=2048, max_num_seqs=16, block_size=32,
        allowed_local_media_path=str(clips), disable_log_stats=True, **settings,
    )  # fmt: skip


def answer(llm: Any, asked: list[Any], tokens: int = TOKENS) -> None:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=tokens, min_tokens=tokens)
    llm.chat(asked, greedy, use_tqdm=False)


def forget(llm: Any) -> None:
    """Empty the caches of read media, of encoded ones and of prompts."""
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()
    llm.reset_prefix_cache()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8, help="prompts that `generate` answers at once")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    from clips import moving_scene, write_clip
    from folders import as_openai, own_folder
    from vl_tiny import user

    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        folder = own_folder(root / "model")
        clips = [write_clip(root / f"{i}.mp4", moving_scene(96, 144, 192, seed=i)) for i in range(args.clips)]
        ours = [
            user(("video", str(clips[i % len(clips)])), f"Question {i}: what happens?")
            for i in range(args.requests)
        ]
        theirs = [as_openai(one, lambda path: f"file://{path}") for one in ours]
        generate(folder, ours[: args.batch], args.batch)  # compiles nothing, loads everything
        figures = {"generate": [seconds(lambda: generate(folder, ours, args.batch)) for _ in range(RUNS)]}
        # One engine after another: what was encoded is kept, or nothing is.
        for way, settings in (
            ("vLLM", {}),
            ("vLLM without caches", {"mm_processor_cache_gb": 0, "enable_prefix_caching": False}),
        ):
            llm = engine(folder, root, **settings)
            answer(llm, theirs[:1])
            figures[way] = []
            for _ in range(RUNS):
                forget(llm)
                figures[way].append(seconds(lambda llm=llm: answer(llm, theirs)))
            forget(llm)
            # The first question about each clip, then the second.
            for turn in ("first", "second"):
                start = 0 if turn == "first" else len(clips)
                own = theirs[start : start + len(clips)]
                figures[f"{turn}, {way}"] = [
                    seconds(lambda llm=llm, one=one: answer(llm, [one], 1)) for one in own
                ]
            del llm
    print(f"{args.requests} requests of {args.clips} clips, {TOKENS} tokens each")
    for way in ("generate", "vLLM", "vLLM without caches"):
        took = min(figures[way])
        print(f"{way:20} {took:6.2f} s   {args.requests * TOKENS / took:7.0f} tokens/s")
    for way in ("vLLM", "vLLM without caches"):
        first, second = (1000 * statistics.median(figures[f"{turn}, {way}"]) for turn in ("first", "second"))
        print(
            f"{way:20} first token of a clip's first question {first:6.1f} ms, of its second {second:6.1f} ms"
        )
    if args.json:
        args.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()

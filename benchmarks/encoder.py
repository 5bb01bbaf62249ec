"""Speed and memory of the encoder, as ratios and shares measured in one run.

    make bench-encoder                                  # the whole table, some minutes on two cores
    python benchmarks/encoder.py --rows forward         # one row

Comparisons are interleaved: A, B, A, B, ... and a ratio is the median of the ratios of neighbours, so that a
machine which slows down for a while slows both. What a GPU makes of it: `benchmarks/gpu.py`.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from onevision_hf import OneVisionConfig, OneVisionModel


def make_model(size: str, attention: str = "sdpa", device: str = "cpu", dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    config = getattr(OneVisionConfig, size)()
    config._attn_implementation = attention
    with torch.device(device):
        return OneVisionModel(config).to(dtype).eval()


def make_patches(
    lengths: list[int], device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Random patches at random positions, packed as the design has it."""
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    inputs = {
        "pixel_values_videos": torch.randn(total, 588, generator=generator).to(dtype),
        "patch_positions": torch.randint(0, 64, (total, 3), generator=generator),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
    }
    return {name: value.to(device) for name, value in inputs.items()}


def pad_packed(packed: dict[str, Tensor], lengths: list[int]) -> dict[str, Tensor]:
    """A packed batch as rows that are padded to the longest, with their mask."""

    def pad(rows: Tensor) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(rows.split(lengths), batch_first=True)

    padded = {name: pad(packed[name]) for name in ("pixel_values_videos", "patch_positions")}
    real = torch.ones(sum(lengths), dtype=torch.bool, device=packed["patch_positions"].device)
    return padded | {"pixel_attention_mask": pad(real)}


def one_row(count: int, batch: int = 1, **kind) -> dict[str, Tensor]:
    inputs = make_patches([count] * batch, **kind)
    return {
        name: inputs[name].unflatten(0, (batch, count)) for name in ("pixel_values_videos", "patch_positions")
    }


def bare_forward(
    weights: dict[str, Tensor], config: OneVisionConfig, patches: Tensor, positions: Tensor
) -> Tensor:
    """The same products and the same rotation without a module, a hook or a check: what torch alone takes."""
    heads, norm = (
        config.num_attention_heads,
        functools.partial(F.layer_norm, normalized_shape=(config.hidden_size,)),
    )

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def normed(name: str, x: Tensor) -> Tensor:
        return norm(
            x, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"], eps=config.layer_norm_eps
        )

    def mlp(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.fc2", F.gelu(linear(f"{name}.fc1", x)))

    unit = config.head_dim // 32
    angles = [
        positions[..., axis, None].float()
        * config.rope_theta ** -(torch.arange(size, device=patches.device) / size)
        for axis, size in enumerate((4 * unit, 6 * unit, 6 * unit))
    ]
    angle = torch.cat(angles * 2, dim=-1).unsqueeze(-2)
    cos, sin = angle.cos(), angle.sin()
    sin[..., ::2].neg_()

    def rotated(x: Tensor) -> Tensor:
        return torch.addcmul(x * cos, torch.stack((x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2), sin)

    x = normed("layernorm_pre", F.linear(patches, weights["embeddings.patch_embedding.weight"].flatten(1)))
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layers.{i}"
        y = normed(f"{layer}.layer_norm1", x)
        q, k, v = (linear(f"{layer}.self_attn.{n}_proj", y).unflatten(-1, (heads, -1)) for n in "qkv")
        y = F.scaled_dot_product_attention(
            rotated(q).transpose(1, 2), rotated(k).transpose(1, 2), v.transpose(1, 2)
        )
        x = x + linear(f"{layer}.self_attn.out_proj", y.transpose(1, 2).flatten(2))
        x = x + mlp(f"{layer}.mlp", normed(f"{layer}.layer_norm2", x))
    x = normed("layernorm_post", x)

    (wq, wk, wv) = weights["head.attention.in_proj_weight"].chunk(3)
    (bq, bk, bv) = weights["head.attention.in_proj_bias"].chunk(3)
    probe = weights["head.probe"].expand(len(x), -1, -1)
    q, k, v = (
        F.linear(s, w, b).unflatten(-1, (heads, -1))
        for s, w, b in ((probe, wq, bq), (x, wk, bk), (x, wv, bv))
    )
    y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    y = linear("head.attention.out_proj", y.transpose(1, 2).flatten(2))
    return (
        y + mlp("head.mlp", F.rms_norm(y, y.shape[-1:], weights["head.norm.weight"], config.layer_norm_eps))
    )[:, 0]


def paper_attention(module, query, key, value, attention_mask, scaling, **kwargs):
    """softmax(Q K^T / sqrt(d)) V as the paper has it, one step after the other, every matrix kept."""
    scores = query @ key.transpose(-1, -2) * scaling
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def products(config: OneVisionConfig, lengths: list[int]) -> float:
    """Floating-point operations of a forward pass's matrix products (2 for a multiply and add)."""
    d, i, total = config.hidden_size, config.intermediate_size, sum(lengths)
    layer = total * (4 * d * d + 2 * d * i) + 2 * d * sum(n * n for n in lengths)
    patch = config.num_channels * config.patch_size**2
    return 2.0 * (total * patch * d + config.num_hidden_layers * layer + total * 2 * d * d)


def timed(run: Callable[[], object], device: str = "cpu") -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(*runs: Callable[[], object], pairs: int, device: str = "cpu") -> list[list[float]]:
    """Seconds of each run, `pairs` times in turn, after one turn that is not counted."""
    turns = [[timed(run, device) for run in runs] for _ in range(pairs + 1)][1:]
    return [list(times) for times in zip(*turns, strict=True)]


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def matrix_peak(
    device: str = "cpu", dtype: torch.dtype = torch.float32, size: int = 2048
) -> Callable[[], object]:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


@torch.no_grad()
def forward_rows(pairs: int, size: str, count: int) -> dict[str, object]:
    """The model, the bare loop and square matrix products, in turn; then it and the paper's attention."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model, inputs = make_model(size), one_row(count)
    weights, side = model.state_dict(), 2048

    def bare() -> Tensor:
        return bare_forward(weights, model.config, *inputs.values())

    difference = (bare() - model(**inputs).pooler_output).abs().max().item()
    assert difference < 1e-3, f"the bare loop computes something else: {difference}"
    ours, loop, square = interleaved(lambda: model(**inputs), bare, matrix_peak(size=side), pairs=pairs)
    peak = [2 * side**3 / t for t in square]
    share = [
        statistics.median(products(model.config, [count]) / t / p for t, p in zip(times, peak, strict=True))
        for times in (ours, loop)
    ]

    ALL_ATTENTION_FUNCTIONS.register("paper", paper_attention)
    slow = make_model(size)
    slow.config._attn_implementation = "paper"
    fast, paper = interleaved(lambda: model(**inputs), lambda: slow(**inputs), pairs=max(1, pairs // 3))
    return {
        "seconds": statistics.median(ours),
        "time against the bare loop (<= 1.10)": ratio(ours, loop),
        "share of square matrix products": share[0],
        "the bare loop's share": share[1],
        "speed against the paper's attention": ratio(paper, fast),
    }


@torch.no_grad()
def packed_rows(pairs: int, size: str, lengths: list[int]) -> dict[str, object]:
    """The same clips packed and padded."""
    model, packed = make_model(size), make_patches(lengths)
    padded = pad_packed(packed, lengths)
    a, b = interleaved(lambda: model(**packed), lambda: model(**padded), pairs=pairs)
    return {
        "lengths": lengths,
        "padding": 1 - sum(lengths) / (len(lengths) * max(lengths)),
        "speed of packed against padded": ratio(b, a),
    }


class LargestTensor(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that an operation returns."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.size = max(self.size, value.untyped_storage().nbytes())
        return result


class PeakMemory:
    """The largest resident memory while it is open, in MiB above its start, sampled each millisecond."""

    def __enter__(self):
        self.start = self.peak = self.resident()
        self.done = threading.Event()
        self.sampler = threading.Thread(target=self.sample, daemon=True)
        self.sampler.start()
        return self

    def sample(self) -> None:
        while not self.done.wait(0.001):
            self.peak = max(self.peak, self.resident())

    def __exit__(self, *exception) -> None:
        self.done.set()
        self.sampler.join()
        self.mib = (self.peak - self.start) / 2**20

    @staticmethod
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def child(task: str, **options) -> dict:
    """Run one of CHILDREN in a process of its own, whose memory nobody else has touched."""
    command = [sys.executable, __file__, "--child", json.dumps({"task": task, **options})]
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    )


@torch.no_grad()
def forward_memory(attention: str, size: str, count: int) -> dict:
    model, inputs = make_model(size, attention), one_row(count)
    model(**one_row(64))
    with PeakMemory() as memory:
        model(**inputs)
    with LargestTensor() as largest:
        model(**inputs)
    return {"mib": memory.mib, "largest_mib": largest.size / 2**20}


def training_step(size: str, count: int) -> Callable[[bool], None]:
    """A step without the optimizer, called with or without gradient checkpointing."""
    model, inputs = make_model(size).train(), one_row(count)

    def step(checkpointing: bool) -> None:
        (model.gradient_checkpointing_enable if checkpointing else model.gradient_checkpointing_disable)()
        model(**inputs).pooler_output.square().sum().backward()

    return step


def training_memory(checkpointing: bool, size: str, count: int) -> dict:
    step = training_step(size, count)
    step(checkpointing)  # so that gradients exist before memory is measured
    with PeakMemory() as memory:
        step(checkpointing)
    return {"mib": memory.mib}


CHILDREN = {"forward_memory": forward_memory, "training_memory": training_memory}


def memory_rows(size: str, count: int) -> dict[str, object]:
    ours, eager = (
        child("forward_memory", attention=name, size=size, count=count) for name in ("sdpa", "eager")
    )
    scores = getattr(OneVisionConfig, size)().num_attention_heads * count**2 * 4 / 2**20
    return {
        "peak MiB sdpa": ours["mib"],
        "peak MiB eager": eager["mib"],
        "largest tensor MiB sdpa": ours["largest_mib"],
        "one L x L tensor of all heads MiB": scores,
    }


def training_rows(size: str, count: int, pairs: int) -> dict[str, object]:
    step = training_step(size, count)
    plain, less = interleaved(lambda: step(False), lambda: step(True), pairs=pairs)
    without, with_it = (
        child("training_memory", checkpointing=flag, size=size, count=count)["mib"] for flag in (False, True)
    )
    return {
        "seconds": statistics.median(plain),
        "time with checkpointing": ratio(less, plain),
        "peak MiB": without,
        "peak MiB with checkpointing": with_it,
    }


ROWS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "forward": lambda a: forward_rows(a.pairs, a.size, a.patches),
    "packed": lambda a: packed_rows(max(1, a.pairs // 3), a.size, [a.patches * n // 2048 for n in LENGTHS]),
    "memory": lambda a: memory_rows(a.size, 2 * a.patches),
    "training": lambda a: training_rows(a.size, a.patches // 2, max(1, a.pairs // 3)),
}
# Eight clips of 128 to 1024 patches.
LENGTHS = [1024, 128, 320, 512, 192, 768, 256, 384]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--size", default="base", choices=["tiny", "base", "large", "huge"])
    parser.add_argument("--patches", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=9, help="interleaved pairs of the forward row")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        options = json.loads(args.child)
        print(json.dumps(CHILDREN[options.pop("task")](**options)))
        return
    results = {}
    if not args.json:
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.size}, "
            f"{args.patches} patches"
        )
    for name in args.rows:
        results[name] = ROWS[name](args)
        if not args.json:
            print(name)
            for what, value in results[name].items():
                print(
                    f"    {what:48}{value:10.3f}"
                    if isinstance(value, float)
                    else f"    {what:48}{value!s:>10}"
                )
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()

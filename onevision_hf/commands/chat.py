"""`onevision chat DIR MEDIA...`: talk with a multimodal model about a clip or an image.

    onevision chat out/vl clip.mp4
    onevision chat ov2 clip.mp4 --video-mode codec --max-canvases 16      # a published LLaVA-OneVision-2
    onevision chat out/vl bundled --ask "Which way does it move?" --num-frames 32 --keep-ratio 0.125

Each line of standard input is a question; an empty line or the end of input ends the talk. Media are encoded
once. Answers are streamed; after each one stands what it cost. DIR may be an adapter that the trainer saved.
"""

import sys
from collections.abc import Iterator
from typing import Annotated, Literal

from typer import Argument as Arg
from typer import Option as Opt

from .options import KeepEnergy, KeepRatio, MaxCanvases, MaxPixels, Quantization, given
from .printing import Stages, pick_device, quiet_loading


def run(
    model: Annotated[str, Arg(metavar="DIR", help="folder or Hub id of a multimodal model")],
    media: Annotated[
        list[str] | None, Arg(metavar="MEDIA", help="videos and images; `bundled` is the package's clip")
    ] = None,
    ask: Annotated[list[str] | None, Opt(metavar="TEXT", help="a question (default: typed ones)")] = None,
    video_mode: Annotated[
        Literal["codec", "frames", "both"] | None, Opt(help="what is kept of a video")
    ] = None,
    num_frames: Annotated[int | None, Opt(metavar="N", help="frames sampled of a video")] = None,
    num_patches: Annotated[int | None, Opt(metavar="N", help="patches kept of a video")] = None,
    keep_ratio: KeepRatio = None,
    keep_energy: KeepEnergy = None,
    max_pixels: MaxPixels = None,
    max_canvases: MaxCanvases = None,
    max_new_tokens: Annotated[int, Opt(metavar="N", help="of an answer")] = 256,
    dtype: Annotated[str, Opt(metavar="NAME", help="of the weights; auto: the folder's")] = "auto",
    quantization: Quantization = None,
    dry_run: Annotated[
        bool, Opt("--dry-run", help="print the memory that it takes; the folder needs no weights for that")
    ] = False,
) -> None:
    import torch
    from transformers import AutoConfig, AutoProcessor

    from onevision_hf.assets import clip_path
    from onevision_hf.conversion.multimodal import load_multimodal
    from onevision_hf.eval.conversation import Conversation
    from onevision_hf.eval.video_input import video_input
    from onevision_hf.modeling.quantization import quantized

    quiet_loading()
    stages = Stages()
    with stages.timed("model"):
        processor = AutoProcessor.from_pretrained(model)
        loaded = None
        if not dry_run:
            device = pick_device()
            options = quantized(quantization, device)
            loaded = load_multimodal(model, dtype, **options).eval()
            loaded = loaded if options else loaded.to(device)
    conversation = Conversation(loaded, processor, max_new_tokens)
    settings = given(
        **(video_input(processor, video_mode) if video_mode else {}),
        num_frames=num_frames,
        num_patches=num_patches,
        keep_ratio=keep_ratio,
        keep_energy=keep_energy,
        max_pixels=max_pixels,
        max_canvases=max_canvases,
    )
    for word in media or []:
        try:
            print(conversation.show(clip_path(word), settings))
        except TypeError as error:  # an option that this model's processor knows nothing of
            raise ValueError(str(error)) from error
    if dry_run:
        from onevision_hf.eval.memory_plan import memory_plan

        config = AutoConfig.from_pretrained(model)
        kept = config.dtype if dtype == "auto" else getattr(torch, dtype)
        print(memory_plan(config, conversation.visual + max_new_tokens, kept or torch.float32))
        return
    print(stages, flush=True)
    for question in ask or _typed():
        if ask:
            print(f"> {question}")
        print(conversation.ask(question), flush=True)


def _typed() -> Iterator[str]:
    """Lines of standard input up to an empty one."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line

"""`onevision chat DIR MEDIA...`: talk with a multimodal model about a clip or an image.

    onevision chat out/vl clip.mp4
    onevision chat out/vl bundled --ask "Which way does it move?" --num-frames 32 --keep-ratio 0.125

Each line of standard input is a question; an empty line or the end of input ends the talk. Media are encoded
once. Answers are streamed; after each one stands what it cost. DIR may be an adapter that the trainer saved.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument as Arg
from typer import Option as Opt

from .options import given
from .printing import Stages, pick_device, quiet_loading

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def run(
    model: Annotated[str, Arg(metavar="DIR", help="folder or Hub id of a multimodal model")],
    media: Annotated[
        list[str] | None, Arg(metavar="MEDIA", help="videos and images; `bundled` is the package's clip")
    ] = None,
    ask: Annotated[list[str] | None, Opt(metavar="TEXT", help="a question, instead of being asked")] = None,
    video_mode: Annotated[
        Literal["codec", "frames", "both"] | None, Opt(help="what is kept of a video")
    ] = None,
    num_frames: Annotated[int | None, Opt(metavar="N", help="frames sampled of a video")] = None,
    num_patches: Annotated[int | None, Opt(metavar="N", help="patches kept of a video")] = None,
    keep_ratio: Annotated[
        float | None, Opt(metavar="R", help="share of the patches of a video that is kept")
    ] = None,
    max_pixels: Annotated[int | None, Opt(metavar="N", help="of an image, and of a frame")] = None,
    max_new_tokens: Annotated[int, Opt(metavar="N", help="of an answer")] = 256,
    dtype: Annotated[str, Opt(metavar="NAME", help="of the weights; auto: the folder's")] = "auto",
) -> None:
    from transformers import AutoProcessor

    from onevision_hf.assets import clip_path
    from onevision_hf.conversion.multimodal import load_multimodal

    quiet_loading()
    stages = Stages()
    with stages.timed("model"):
        processor = AutoProcessor.from_pretrained(model)
        loaded = load_multimodal(model, dtype).to(pick_device()).eval()
    conversation = Conversation(loaded, processor, max_new_tokens)
    settings = given(
        video_mode=video_mode,
        num_frames=num_frames,
        num_patches=num_patches,
        keep_ratio=keep_ratio,
        max_pixels=max_pixels,
    )
    for word in media or []:
        print(conversation.show(clip_path(word), settings))
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


class Conversation:
    """One conversation; its media are read and encoded once, its earlier turns stay in the prompt."""

    def __init__(self, model: Any, processor: Any, max_new_tokens: int):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.turns: list[dict[str, Any]] = []
        self.media: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.encoded: Any = None

    def show(self, path: Path, settings: dict[str, Any]) -> str:
        """Put a clip or an image before the next question; gives a line on what it costs."""
        block = self.processor.merge_size**2
        if path.suffix.lower() in PICTURES:
            images = {name: value for name, value in settings.items() if name == "max_pixels"}
            found = self.processor.image_processor(_open(path), return_tensors="pt", **images)
            self.media.append({"type": "image", "image": str(path)})
            self.settings |= images
            return f"{path.name}: {len(found['pixel_values']) // block} tokens"
        clip = self.processor.read_video(path, **settings)
        self.media.append({"type": "video", "video": clip})
        whole = clip.selection.energy.size
        return (
            f"{path.name}: {len(clip.timestamps)} frames, {len(clip):,} of {whole:,} patches "
            f"({100 * len(clip) / whole:.1f} %), {len(clip) // block} tokens"
        )

    def ask(self, question: str) -> str:
        """Stream the answer to standard output; gives a line on what was spent."""
        import torch
        from transformers import TextStreamer

        content = [*(self.media if not self.turns else []), {"type": "text", "text": question}]
        self.turns.append({"role": "user", "content": content})
        inputs = self.processor.apply_chat_template(
            self.turns, tokenize=True, return_dict=True, add_generation_prompt=True,
            processor_kwargs=self.settings
        ).to(self.model.device)  # fmt: skip
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        start = time.perf_counter()
        with torch.inference_mode():
            if self.encoded is None:
                self.encoded = self.model.encode_media(**inputs)
            streamer = TextStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
            output = self.model.generate(
                **text,
                mm_encoder_outputs=self.encoded or None,
                max_new_tokens=self.max_new_tokens,
                streamer=streamer,
            )[0, text["input_ids"].shape[1] :]
        seconds = time.perf_counter() - start
        answer = self.processor.tokenizer.decode(output, skip_special_tokens=True)
        self.turns.append({"role": "assistant", "content": answer})
        media = (self.processor.image_token_id, self.processor.video_token_id)
        visual = sum(int((text["input_ids"] == token).sum()) for token in media)
        spent = text["input_ids"].shape[1]
        return f"[{visual} visual + {spent - visual} text tokens in, {len(output)} out, {seconds:.1f} s]"


def _open(path: Path) -> Any:
    from transformers.image_utils import load_image

    return load_image(str(path))

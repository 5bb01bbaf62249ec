"""`onevision chat DIR MEDIA...`: talk with a multimodal model about a clip or an image.

    onevision chat out/vl clip.mp4
    onevision chat out/vl bundled --ask "Which way does it move?" --num-frames 32 --keep-ratio 0.125

Each line of standard input is a question; an empty line or the end of input ends the talk. Media are encoded
once. Answers are streamed; after each one stands what it cost. DIR may be an adapter that the trainer saved.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .report import Stages, clip_path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="folder or Hub id of a multimodal model")
    parser.add_argument(
        "media", nargs="*", metavar="MEDIA", help="videos and images; `bundled` is the package's clip"
    )
    parser.add_argument("--ask", action="append", metavar="TEXT", help="a question, instead of being asked")
    parser.add_argument("--video-mode", choices=["codec", "frames", "both"], help="what is kept of a video")
    parser.add_argument("--num-frames", type=int, help="frames sampled of a video")
    parser.add_argument("--num-patches", type=int, help="patches kept of a video")
    parser.add_argument("--keep-ratio", type=float, help="share of the patches of a video that is kept")
    parser.add_argument("--max-pixels", type=int, help="of an image, and of a frame")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of an answer (default: 256)")
    parser.add_argument("--dtype", default="auto", help="of the weights (default: the folder's)")


def run(args: argparse.Namespace) -> None:
    import torch
    from transformers import AutoProcessor
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stages = Stages()
    with stages.timed("model"):
        processor = AutoProcessor.from_pretrained(args.model)
        model = _load(args.model, args.dtype).to(device).eval()
    talk = Talk(model, processor, args.max_new_tokens)
    names = ("video_mode", "num_frames", "num_patches", "keep_ratio", "max_pixels")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for word in args.media:
        print(talk.show(clip_path(word), settings))
    print(stages, flush=True)
    for question in args.ask or _typed():
        if args.ask:
            print(f"> {question}")
        print(talk.ask(question), flush=True)


def _load(folder: str, dtype: str) -> Any:
    """The model of a folder; of an adapter's, the model that it was trained on with the adapter in it."""
    from transformers import AutoModelForImageTextToText

    adapter = Path(folder) / "adapter_config.json"
    if not adapter.is_file():
        return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    from peft import PeftModel

    base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    model: Any = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, folder).merge_and_unload()


def _typed() -> Any:
    """Lines of standard input up to an empty one."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


class Talk:
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
            processor_kwargs=self.settings,
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

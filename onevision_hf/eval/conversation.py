"""A conversation with a multimodal model about clips and images.

conversation = Conversation(model, processor, max_new_tokens=256)
print(conversation.show(Path("clip.mp4"), {"num_patches": 1024}))
print(conversation.ask("Which way does it move?"))      # the answer is streamed to standard output
"""

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Conversation:
    """One conversation; its media are read and encoded once, its earlier turns stay in the prompt.

    Args:
        model: a multimodal model.
        processor: of that model.
        max_new_tokens: of an answer.
    """

    def __init__(self, model: Any, processor: Any, max_new_tokens: int):
        self.model, self.processor, self.max_new_tokens = model, processor, max_new_tokens
        self.turns: list[dict[str, Any]] = []
        self.media: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.encoded: Any = None
        self.visual = 0  # tokens of the media so far

    def show(self, path: Path, settings: dict[str, Any]) -> str:
        """Put a clip or an image before the next question; gives a line on what it costs."""
        if path.suffix.lower() in PICTURES:
            images = {name: value for name, value in settings.items() if name == "max_pixels"}
            found = self.processor.read_image(path, **images)
            self.media.append({"type": "image", "image": str(path)})
            self.settings |= images
            count = self.processor.expanded(token := self.processor.image_token, [found], []).count(token)
            self.visual += count
            return f"{path.name}: {count} tokens"
        clip = self.processor.read_video(path, **settings)
        self.media.append({"type": "video", "video": clip})
        count = len(clip) // self.processor.merge_size**2
        self.visual += count
        return f"{path.name}: {clip}, {count} tokens"

    def ask(self, question: str) -> str:
        """Stream the answer to standard output; gives a line on what was spent."""
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

"""How a conversation becomes a prompt: Jinja templates in which images and videos have a place.

A part of a message's content is {"type": "text", "text": ...}, {"type": "image", ...} or {"type": "video",
...}; a media part becomes its token and, where something follows, a line break, as LLaVA has it.
"""

IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")

# The content of `message`, a string or parts, as one string.
_CONTENT = (
    "{%- macro content_of(content) -%}"
    "{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- else -%}"
    "{%- if part.type == 'image' -%}{{ 'IMAGE' }}"
    "{%- elif part.type == 'video' -%}{{ 'VIDEO' }}"
    "{%- else -%}{{ raise_exception('a part of a message is text, image or video, not ' ~ part.type) }}"
    "{%- endif -%}"
    "{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- endmacro -%}"
)

# The published prompt (`qwen_1_5` of llava_next): ChatML with this system message.
_CHATML = (
    "{%- if messages[0].role != 'system' -%}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' ~ message.role ~ '\\n' ~ content_of(message.content) ~ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def chatml_template(image_token: str = IMAGE_TOKEN, video_token: str = VIDEO_TOKEN) -> str:
    """The published prompt, for language models whose turns are ChatML's."""
    return _with_tokens(_CONTENT, image_token, video_token) + _CHATML


def bracketed_template(image: str, video: str) -> str:
    """ChatML with media in brackets and directly followed by what comes next, as Qwen2-VL has them.

    Args:
        image: what an image is written as, brackets included.
        video: what a video is written as.
    """
    content = _CONTENT.replace("{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}", "")
    return _with_tokens(content, image, video) + _CHATML


def wrapped_template(template: str, image_token: str = IMAGE_TOKEN, video_token: str = VIDEO_TOKEN) -> str:
    """A language model's own template behind one that writes every content as a string.

    Args:
        template: a Jinja chat template that expects strings.
        image_token: what an image is written as.
        video_token: what a video is written as.
    """
    flatten = (
        "{%- set flat = namespace(messages=[]) -%}"
        "{%- for message in messages -%}"
        "{%- set flat.messages = flat.messages + [dict(message, content=content_of(message.content))] -%}"
        "{%- endfor -%}"
        "{%- set messages = flat.messages -%}"
    )
    return _with_tokens(_CONTENT, image_token, video_token) + flatten + template


def _with_tokens(text: str, image_token: str, video_token: str) -> str:
    return text.replace("IMAGE", image_token).replace("VIDEO", video_token)


__all__ = [
    "IMAGE_TOKEN",
    "TURN_TOKENS",
    "VIDEO_TOKEN",
    "bracketed_template",
    "chatml_template",
    "wrapped_template",
]

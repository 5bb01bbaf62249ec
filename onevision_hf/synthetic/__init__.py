"""A world that the project draws itself: clips, images and questions from a seed, each with its exact truth.

    onevision synth clips --out drawn --count 1000 --seed 0 --preview

It imports nothing else of the package. Pixels come from whole numbers only, so a seed means the same ones on
every machine; see docs/synthetic.md.
"""

from .clips import Clip, ClipSettings, draw_clip
from .encoding import CODECS, EncodingSettings, encode
from .families import CLIP_FAMILIES, HELD_OUT_OBJECTS, IMAGE_FAMILIES, OBJECTS, Family
from .folder import Job, produce
from .images import DrawnImage, ImageSettings, draw_image
from .manifest import read_manifest
from .questions import Question, ask, ask_clip
from .scenes import Event
from .truth import Truth, unpack_masks

__all__ = [
    "CLIP_FAMILIES",
    "CODECS",
    "HELD_OUT_OBJECTS",
    "IMAGE_FAMILIES",
    "OBJECTS",
    "Clip",
    "ClipSettings",
    "DrawnImage",
    "EncodingSettings",
    "Event",
    "Family",
    "ImageSettings",
    "Job",
    "Question",
    "Truth",
    "ask",
    "ask_clip",
    "draw_clip",
    "draw_image",
    "encode",
    "produce",
    "read_manifest",
    "unpack_masks",
]

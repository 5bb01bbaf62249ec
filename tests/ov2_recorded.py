"""What was recorded of the authors' LLaVA-OneVision-2 code, on a published folder of random weights."""

from pathlib import Path

import numpy as np
from PIL import Image

PUBLISHED = Path(__file__).parent / "fixtures" / "llava_onevision2"
CASES = ("image", "frames_file", "codec")
RECORDED = dict(np.load(PUBLISHED / "cases.npz"))
# The pictures before the image processor, one below the other.
for case in CASES:
    pixels = np.asarray(Image.open(PUBLISHED / f"{case}.webp"))
    RECORDED[f"{case}.raw_0"] = pixels.reshape(RECORDED.pop(f"{case}.shape"))

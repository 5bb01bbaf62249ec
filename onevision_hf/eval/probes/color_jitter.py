"""The published colour changes of training clips: one draw for a whole clip.

dataloader/ap_dataloader_dali.py of EvolvingLMMs-Lab/OneVision-Encoder: brightness within 0.125 and contrast
0.6 to 1.4 (in 80 % of the clips), saturation 0.6 to 1.4 (80 %), hue within 0.2 degrees (80 %), red and blue
exchanged (10 %). There brightness is handed to an argument that DALI documents as a factor; here it is added,
which is what its range is for.
"""

import math

import numpy as np

# To luma and two colour differences (YIQ), where saturation is a length and hue an angle.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_OFTEN, _SELDOM = 0.8, 0.1


def jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(K, 3, N) RGB in [0, 1] -> the same, in other colours."""
    coins = rng.random(4)
    brightness, contrast, saturation, degrees = rng.uniform([-0.125, 0.6, 0.6, -0.2], [0.125, 1.4, 1.4, 0.2])
    if coins[0] < _OFTEN:
        pixels = np.clip((pixels - 0.5) * np.float32(contrast) + np.float32(0.5 + brightness), 0, 1)
    angle = math.radians(degrees) if coins[2] < _OFTEN else 0.0
    length = saturation if coins[1] < _OFTEN else 1.0
    turn = length * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.eye(3)
    middle[1:, 1:] = turn
    mix = (_FROM_YIQ @ middle @ _TO_YIQ).astype(np.float32)
    if coins[3] < _SELDOM:
        mix = mix[::-1]
    return np.clip(np.einsum("ij,kjn->kin", mix, pixels), 0, 1, dtype=np.float32)

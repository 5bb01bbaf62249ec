"""Capital letters and digits of five by seven dots, so that a word looks the same everywhere."""

import functools

import numpy as np

GLYPH_HEIGHT, GLYPH_WIDTH = 7, 5
# Seven rows a glyph, a hexadecimal pair of digits each, the five low bits from left to right.
_ROWS = {
    "A": "0e11111f111111", "B": "1e11111e11111e", "C": "0e11101010110e", "D": "1c12111111121c",
    "E": "1f10101e10101f", "F": "1f10101e101010", "G": "0e11101711110f", "H": "1111111f111111",
    "I": "0e04040404040e", "J": "0702020202120c", "K": "11121418141211", "L": "1010101010101f",
    "M": "111b1515111111", "N": "11191915131311", "O": "0e11111111110e", "P": "1e11111e101010",
    "Q": "0e11111115120d", "R": "1e11111e141211", "S": "0f10100e01011e", "T": "1f040404040404",
    "U": "1111111111110e", "V": "11111111110a04", "W": "1111111515150a", "X": "11110a040a1111",
    "Y": "11110a04040404", "Z": "1f01020408101f", "0": "0e11131519110e", "1": "040c040404040e",
    "2": "0e11010204081f", "3": "1f02040201110e", "4": "02060a121f0202", "5": "1f101e0101110e",
    "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e", "9": "0e11110f01020c",
}  # fmt: skip
WORDS = (
    "ARROW", "BOAT", "CLOUD", "DUNE", "EAGLE", "FERN", "GLASS", "HONEY",
    "IRON", "JUMP", "KITE", "LAMP", "MINT", "NORTH", "OPAL", "QUIZ",
)  # fmt: skip


@functools.lru_cache(maxsize=256)
def lettered(word: str, scale: int = 1) -> np.ndarray:
    """The dots of `word`, (7 * scale, (6 * letters - 1) * scale) bool, a dot's room between letters.

    Raises:
        ValueError: a character other than A to Z and 0 to 9, or no character.
    """
    unknown = sorted(set(word) - _ROWS.keys())
    if unknown or not word:
        raise ValueError(
            f"{word!r} cannot be lettered: A to Z and 0 to 9 are drawn, found {unknown or 'nothing'}"
        )
    dots = np.zeros((GLYPH_HEIGHT, (GLYPH_WIDTH + 1) * len(word) - 1), dtype=bool)
    for place, letter in enumerate(word):
        rows = np.frombuffer(bytes.fromhex(_ROWS[letter]), dtype=np.uint8)
        left = place * (GLYPH_WIDTH + 1)
        dots[:, left : left + GLYPH_WIDTH] = (rows[:, None] >> np.arange(GLYPH_WIDTH)[::-1]) & 1
    dots = dots.repeat(scale, axis=0).repeat(scale, axis=1)
    dots.setflags(write=False)
    return dots

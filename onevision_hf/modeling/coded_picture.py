"""What a revealed stream tells of each coded picture, whatever the codec.

A *revealed* stream is one changed so that a decoder hands out every picture right after it was decoded: those
that are never shown (VP8, VP9, AV1), and those that wait for their turn (HEVC, VVC). No decoded pixel
changes. Each codec has a class of its own (`hevc_bitstream`, `vvc_bitstream`, `vp8_bitstream`,
`vp9_bitstream`, `av1_bitstream`) with the methods of `RevealedStream`; they keep the decoder's slots or
picture order counts to themselves, and speak of pictures by number.
"""

from dataclasses import dataclass, field
from typing import Protocol


class BitstreamError(ValueError):
    """A packet or a header is damaged, or uses what cannot be read; the message names it."""


@dataclass(frozen=True)
class Reference:
    """A picture that another may be predicted from.

    Attributes:
        number: of that picture.
        weights: what explicit weighted prediction multiplies its Y, U and V with.
        offsets: what it adds then, in grey levels of 8 bits.
    """

    number: int
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class CodedPicture:
    """One step of a decoder through a revealed stream.

    Attributes:
        data: what the decoder is given.
        number: of the picture, counted from 0 in the order of decoding.
        reveal: what the decoder is given next so that it hands out a picture that is not shown; b"" where it
            hands it out by itself.
        is_coded: False where `data` decodes no picture; `number` is that of the earlier one that it shows, -1
            where that is unknown or it shows none.
        is_shown: whether this step displays its picture.
        is_key: nothing decoded before it is referred to, by it or by any later picture.
        references: what it may be predicted from; a picture more than once if it has several weights. Empty
            of intra pictures. None: not known, so all that the decoder may still hold.
        kept: numbers of the pictures, itself among them, that may be referred to after it; None: not known.
        order: its place in the order of display, counted from the last key picture on, which has 0; None
            where the header does not tell.
        pair_weights: for two references (by number) that are averaged, the unequal weights of the first that
            blocks may choose instead of a half; the second's are 1 less it (AV1).
    """

    data: bytes
    number: int
    reveal: bytes = b""
    is_coded: bool = True
    is_shown: bool = True
    is_key: bool = False
    references: tuple[Reference, ...] | None = None
    kept: frozenset[int] | None = None
    order: int | None = None
    pair_weights: dict[tuple[int, int], float] = field(default_factory=dict)


class RevealedStream(Protocol):
    """A codec's stream, packet by packet in the order of decoding, from an entry (keyframe) on.

    Args:
        extradata: the container's header, b"" where the packets have the parameter sets.

    Attributes:
        extradata: what the decoder is opened with instead of the container's; b"" for none.

    Raises:
        BitstreamError: the header cannot be read.
    """

    extradata: bytes

    def split(self, packet: bytes) -> list[CodedPicture]:
        """The steps of one packet.

        Raises:
            BitstreamError: it cannot be read. The next packet may be tried.
        """
        ...

    def enter(self) -> None:
        """Forget all pictures (not the parameter sets): the next packet is an entry."""
        ...

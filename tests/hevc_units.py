"""HEVC's parameter sets and slice headers, written bit by bit for tests (ITU-T H.265, 7.3), without a
picture behind them."""

from collections.abc import Sequence

from onevision_hf.modeling.bitstream import BitReader, BitWriter, payload_of, prevent_emulation

TRAIL, IDR, CRA, SPS, PPS, END = 1, 19, 21, 33, 34, 36  # types of NAL units
B, P, I = 0, 1, 2
Differences = Sequence[tuple[int, bool]]


class Bits(BitWriter):
    """Bits that others are put together of."""

    def signed(self, *values: int) -> "Bits":
        for value in values:
            self.unsigned(2 * value - 1 if value > 0 else -2 * value)
        return self

    def __str__(self) -> str:
        return "".join(self._bits)


def header(kind: int, layer: int = 0) -> bytes:
    return bytes([kind << 1, layer << 3 | 1])


def write_set(writer: Bits, differences: Differences, first: bool = True) -> Bits:
    """st_ref_pic_set, said outright."""
    writer.raw("" if first else "0")
    halves = [[pair for pair in differences if (pair[0] > 0) == later] for later in (False, True)]
    writer.unsigned(len(halves[0])).unsigned(len(halves[1]))
    for half in halves:
        last = 0
        for difference, used in half:
            writer.unsigned(abs(difference - last) - 1).bits(used, 1)
            last = difference
    return writer


def sequence_unit(
    *,
    reorder: Sequence[int] = (0,),
    sub_layers: int = 1,
    profile: int = 1,
    chroma_format: int = 1,
    depth: int = 8,
    size: tuple[int, int] = (96, 64),
    window: tuple[int, ...] = (),
    scaling: bool = False,
    poc_bits: int = 4,
    sets: Sequence[Differences] = (),
    set_bits: str | None = None,
    long_term: Sequence[tuple[int, bool]] | None = None,
    usability: str = "0",
    fine_offsets: bool = False,
) -> bytes:
    """A sequence parameter set.

    Args:
        reorder: for each sub-layer, or for all.
        sub_layers: how many there are.
        profile: general_profile_idc.
        chroma_format: chroma_format_idc.
        depth: bits of a sample.
        size: width and height; blocks are of 16 x 16.
        window: of conformance.
        scaling: whether there are scaling lists.
        poc_bits: low bits of counts in slices.
        sets: short-term reference sets.
        set_bits: what stands there instead.
        long_term: candidates; None: there are no long-term references.
        usability: bits of the VUI, its flag first.
        fine_offsets: high_precision_offsets_enabled_flag.
    """
    writer = Bits()
    writer.bits(0, 4).bits(sub_layers - 1, 3).bits(1, 1)
    writer.bits(profile, 8).bits(1 << 30 | 5, 80).bits(93, 8)
    if sub_layers > 1:
        writer.raw("11" * (sub_layers - 1) + "00" * (9 - sub_layers) + "01" * (48 * (sub_layers - 1)))
    writer.unsigned(0).unsigned(chroma_format).raw("0" if chroma_format == 3 else "")
    writer.unsigned(size[0]).unsigned(size[1]).bits(bool(window), 1)
    for edge in window:
        writer.unsigned(edge)
    writer.unsigned(depth - 8).unsigned(depth - 8).unsigned(poc_bits - 4).bits(len(reorder) > 1, 1)
    for pictures in reorder:
        writer.unsigned(5).unsigned(pictures).unsigned(0)
    writer.unsigned(0).unsigned(1)
    for _ in range(4):
        writer.unsigned(0)
    writer.bits(scaling, 1)
    if scaling:
        writer.bits(1, 1)
        for block in range(4):
            count = min(64, 16 << 2 * block) + (block > 1)
            for matrix in range(2 if block == 3 else 6):
                if matrix % 2:
                    writer.raw("0").unsigned(1)
                else:
                    writer.raw("1")
                    writer.signed(*((-1) ** n * (n % 5) for n in range(count)))
    writer.raw("0" + "1" + "0")  # unequal partitions, sample offsets, PCM
    if set_bits is None:
        writer.unsigned(len(sets))
        for place, differences in enumerate(sets):
            write_set(writer, differences, first=place == 0)
    else:
        writer.raw(set_bits)
    writer.bits(long_term is not None, 1)
    if long_term is not None:
        writer.unsigned(len(long_term))
        for lsb, used in long_term:
            writer.bits(lsb, poc_bits).bits(used, 1)
    writer.raw("1" + "0" + usability)  # temporal vectors, smoothing
    writer.raw("1" + "10000000" + "000000100" if fine_offsets else "0")
    return writer.nal_unit(header(SPS))


def picture_unit(
    *,
    number: int = 0,
    dependent: bool = False,
    sizes: tuple[int, int] = (1, 1),
    weights: tuple[bool, bool] = (False, False),
    tiles: bool = False,
    changes_lists: bool = False,
) -> bytes:
    """A picture parameter set of sequence 0.

    Args:
        number: its own.
        dependent: whether slice segments may depend on the one before.
        sizes: of the reference lists.
        weights: whether P and B slices have some.
        tiles: whether there are two rows of two tiles.
        changes_lists: whether slices may reorder their lists.
    """
    writer = Bits()
    writer.unsigned(number).unsigned(0).bits(dependent, 1).raw("0" + "000" + "0" + "1")
    writer.unsigned(sizes[0] - 1).unsigned(sizes[1] - 1)
    writer.signed(-3).raw("00" + "1").unsigned(1)
    writer.signed(2, -2).raw("0").bits(weights[0], 1).bits(weights[1], 1).raw("0").bits(tiles, 1)
    writer.raw("0")
    if tiles:
        writer.unsigned(1).unsigned(1).raw("0").unsigned(3).unsigned(2).raw("1")
    writer.raw("0" + "1" + "0" + "0")  # deblocking has offsets
    writer.signed(3, -3).raw("0").bits(changes_lists, 1)
    return writer.unsigned(0).raw("00").nal_unit(header(PPS))


def slice_unit(
    kind: int,
    poc_lsb: int,
    near: Differences | str = (),
    far: str = "",
    *,
    slice_type: int = P,
    at: int = 0,
    depends: str = "",
    number: int = 0,
    poc_bits: int = 4,
    sets: int = 0,
    offsets: str = "11",
    lists: str = "0",
    weights: str = "",
) -> bytes:
    """The header of a slice segment of the sequence above.

    Args:
        kind: of the NAL unit.
        poc_lsb: low bits of the picture order count.
        near: short-term references; bits: what chooses them.
        far: bits of the long-term references.
        slice_type: `B`, `P` or `I`.
        at: address; 0 is the first of a picture. There are 24 blocks.
        depends: bit that says whether it depends on the one before, where that may be.
        number: of the picture parameter set.
        poc_bits: of the sequence.
        sets: of the sequence.
        offsets: whether luma and chroma have sample offsets.
        lists: bits of the lists' sizes and changes.
        weights: bits from the one that selects the co-located picture on.
    """
    writer = Bits()
    writer.bits(at == 0, 1).raw("0" if 16 <= kind < 24 else "").unsigned(number)
    if at:
        writer.raw(depends).bits(at, 5)
    if depends != "1":
        writer.unsigned(slice_type)
        if kind != IDR:
            writer.bits(poc_lsb, poc_bits)
            writer.raw(near if isinstance(near, str) else "0")
            if not isinstance(near, str):
                write_set(writer, near, first=sets == 0)
            writer.raw(far + "1")
        writer.raw(offsets)
        if slice_type != I:
            writer.raw(lists + ("0" if slice_type == B else "") + "1" + weights)
    return writer.bits(0xAB, 64).nal_unit(header(kind))


def hide_picture(unit: bytes, hidden: bool) -> bytes:
    """An encoder's slice, now of a picture that is output or not; its parameters need `allow_hiding`.

    It gets a byte longer, so that what comes behind stays where it is in its byte.
    """
    reader = BitReader(payload_of(unit[2:]))
    bits = reader.rest()
    reader.bits(2 if unit[0] >> 1 & 63 >= 16 else 1), reader.unsigned()
    place = len(bits) - reader.left
    reader.unsigned()
    behind = len(bits) - reader.left
    bits = bits[:place] + "0" * 7 + bits[place:behind] + str(int(not hidden)) + bits[behind:]
    return unit[:2] + prevent_emulation(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def allow_hiding(unit: bytes) -> bytes:
    """A picture parameter set of an encoder's, with output flags and seven reserved bits in slices."""
    reader = BitReader(payload_of(unit[2:]))
    bits = reader.rest()
    reader.unsigned(), reader.unsigned(), reader.bits(1)
    place = len(bits) - reader.left
    bits = bits[:place] + "1111" + bits[place + 4 :]
    return unit[:2] + prevent_emulation(int(bits, 2).to_bytes(len(bits) // 8, "big"))

"""VVC's sequence parameter sets (ITU-T H.266, 7.3.2.4): read, and changed so that pictures need not wait.

A decoder holds back up to `dpb_max_num_reorder_pics` pictures until those that are shown before them were
decoded. Where that is 0 it hands out each picture right after it was decoded.
"""

from dataclasses import dataclass

from .bitstream import BitReader, BitWriter, payload_of
from .coded_picture import BitstreamError

MAX_SUBPICTURES = 1000  # slices of level 6.3
MAX_LISTS, MAX_ENTRIES = 64, 29  # of references

# An entry of a reference list: difference of the picture order count to the current picture's, None for a
# long-term reference; low bits of the count of one, None where the picture tells them.
ListEntry = tuple[int | None, int | None]
ReferenceList = tuple[ListEntry, ...]


@dataclass(frozen=True)
class SequenceParameters:
    """What pictures and slices need of a sequence parameter set.

    Attributes:
        poc_lsb_bits: low bits of a picture order count.
        cycle_bits: of the higher ones where a picture tells them; 0: none does.
        extra_picture_bits: reserved bits of picture headers.
        extra_slice_bits: reserved bits of slices.
        has_weights: whether picture parameter sets may have weighted prediction.
        lists: reference lists that pictures choose from, first and second ones.
        in_picture: names of what picture headers may switch.
    """

    number: int
    poc_lsb_bits: int
    cycle_bits: int
    extra_picture_bits: int
    extra_slice_bits: int
    has_chroma: bool
    has_subpictures: bool
    has_weights: bool
    has_long_term: bool
    has_layers: bool
    idr_has_lists: bool
    lists: tuple[tuple[ReferenceList, ...], tuple[ReferenceList, ...]]
    in_picture: frozenset[str]


def reveal_sequence(unit: bytes) -> tuple[SequenceParameters, bytes]:
    """A sequence parameter set; its unit with dpb_max_num_reorder_pics = 0 in all sub-layers.

    All other bits of the unit stay.
    """
    payload = payload_of(unit[2:])
    reader = BitReader(payload)
    number = reader.bits(4)
    has_other_layers = reader.bits(4) > 0
    sub_layers = reader.bits(3) + 1
    chroma_format = reader.bits(2)
    block_bits = 5 + reader.bits(2)
    if not reader.flag():
        raise BitstreamError(f"sequence parameter set {number} does not tell how pictures are reordered")
    _skip_profile(reader, sub_layers)
    reader.bits(1)
    if reader.flag():  # references of other sizes
        reader.bits(1)
    size = reader.unsigned(), reader.unsigned()
    for _ in range(4 if reader.flag() else 0):  # window
        reader.unsigned()
    has_subpictures = reader.flag()
    if has_subpictures:
        _skip_subpictures(reader, size, block_bits)
    reader.unsigned(), reader.bits(2)
    poc_lsb_bits = 4 + reader.bits(4)
    cycle_bits = 1 + reader.unsigned(32 - poc_lsb_bits - 1, "size of cycles, less 1,") if reader.flag() else 0
    extra_picture_bits = sum(reader.flag() for _ in range(8 * reader.bits(2)))
    extra_slice_bits = sum(reader.flag() for _ in range(8 * reader.bits(2)))
    has_all = sub_layers > 1 and reader.flag()
    writer = BitWriter().raw(BitReader(payload).rest()[: len(payload) * 8 - reader.left])
    for _ in range(sub_layers if has_all else 1):
        buffering, _, latency = reader.unsigned(), reader.unsigned(), reader.unsigned()
        writer.unsigned(buffering).unsigned(0).unsigned(latency)
    rest = reader.rest().rstrip("0")
    if not rest:
        raise BitstreamError("a sequence parameter set ends early")
    revealed = writer.raw(rest[:-1]).nal_unit(unit[:2])  # which writes the last 1 again, the stop bit

    has_chroma = chroma_format > 0
    switches = _read_block_tools(reader, has_chroma, block_bits)
    has_weights = any([reader.flag(), reader.flag()])
    has_long_term = reader.flag()
    has_layers = has_other_layers and reader.flag()
    idr_has_lists = reader.flag()
    is_same = reader.flag()
    kinds = (has_weights, has_long_term, has_layers, poc_lsb_bits)
    lists = [
        tuple(
            read_list(reader, *kinds, in_sequence=True)
            for _ in range(reader.unsigned(MAX_LISTS, "number of reference lists"))
        )
        for _ in range(1 if is_same else 2)
    ]
    switches |= _read_motion_tools(reader, chroma_format, switches)
    return (
        SequenceParameters(
            number=number,
            poc_lsb_bits=poc_lsb_bits,
            cycle_bits=cycle_bits,
            extra_picture_bits=extra_picture_bits,
            extra_slice_bits=extra_slice_bits,
            has_chroma=has_chroma,
            has_subpictures=has_subpictures,
            has_weights=has_weights,
            has_long_term=has_long_term,
            has_layers=has_layers,
            idr_has_lists=idr_has_lists,
            lists=(lists[0], lists[-1]),
            in_picture=frozenset(switches),
        ),
        revealed,
    )


def read_list(
    reader: BitReader,
    has_weights: bool,
    has_long_term: bool,
    has_layers: bool,
    lsb_bits: int,
    in_sequence: bool,
) -> ReferenceList:
    """ref_pic_list_struct (7.3.10).

    Args:
        reader: in front of it.
        has_weights: of the sequence.
        has_long_term: of the sequence.
        has_layers: of the sequence.
        lsb_bits: low bits of a picture order count.
        in_sequence: whether it stands there, or in a picture.

    Raises:
        BitstreamError: it is damaged, or refers to another layer.
    """
    count = reader.unsigned(MAX_ENTRIES, "number of references")
    tells_lsbs = has_long_term and in_sequence and count > 0 and not reader.flag()
    entries: list[ListEntry] = []
    difference = 0
    for place in range(count):
        if has_layers and reader.flag():
            raise BitstreamError("a picture refers to one of another layer")
        if not has_long_term or reader.flag():
            step = reader.unsigned() + (0 if has_weights and place else 1)
            difference += -step if step and reader.flag() else step
            entries.append((difference, None))
        else:
            entries.append((None, reader.bits(lsb_bits) if tells_lsbs else None))
    return tuple(entries)


def _read_block_tools(reader: BitReader, has_chroma: bool, block_bits: int) -> set[str]:
    """From the smallest coding block on to weighted prediction; what picture headers and slices depend on."""
    found: set[str] = set()

    def note(name: str) -> bool:
        present = reader.flag()
        found.update([name] if present else [])
        return present

    def skip_partition() -> None:
        reader.unsigned()
        if reader.unsigned():
            reader.unsigned(), reader.unsigned()

    reader.unsigned()
    note("partitions")
    skip_partition()
    if has_chroma and note("dual_tree"):
        skip_partition()
    skip_partition()
    if block_bits > 5:
        note("wide_transforms")
    if note("transform_skip"):
        reader.unsigned(), reader.bits(1)
    if reader.flag():  # choice of transforms
        reader.bits(2)
    note("secondary_transforms")
    if has_chroma:
        note("joint_chroma")
        tables = 1 if reader.flag() else 3 if "joint_chroma" in found else 2
        for _ in range(tables):
            reader.signed()
            for _ in range(
                2 * (1 + reader.unsigned(100, "number of points of a table of quantizers, less 1,"))
            ):
                reader.unsigned()
    reader.bits(1)
    if note("loop_filter") and has_chroma:
        note("cross_filter")
    note("luma_mapping")
    return found


def _read_motion_tools(reader: BitReader, chroma_format: int, known: set[str]) -> set[str]:
    """From the lists of references on to virtual boundaries, as `_read_block_tools`.

    Args:
        reader: in front of sps_ref_wraparound_enabled_flag.
        chroma_format: chroma_format_idc.
        known: what that found.
    """
    found: set[str] = set()

    def note(name: str) -> bool:
        present = reader.flag()
        found.update([name] if present else [])
        return present

    reader.bits(1)
    if note("temporal_vectors"):
        reader.bits(1)
    has_vector_sizes = reader.flag()
    if reader.flag():
        note("optical_flow")
    reader.bits(1)
    if reader.flag():
        note("refinement")
    if reader.flag():
        note("whole_vectors")
    candidates = 6 - reader.unsigned(5, "number of merge candidates, 6 less,")
    reader.bits(1)
    if reader.flag():  # affine
        reader.unsigned(), reader.bits(2 if has_vector_sizes else 1)
        if reader.flag():
            note("affine_refinement")
    reader.bits(2)
    if candidates >= 2 and reader.flag() and candidates >= 3:
        reader.unsigned()
    reader.unsigned(), reader.bits(3)
    reader.bits((0, 3, 1, 1)[chroma_format])
    has_palette = reader.flag()
    has_colour_transform = chroma_format == 3 and "wide_transforms" not in known and reader.flag()
    if "transform_skip" in known or has_palette:
        reader.unsigned()
    if reader.flag():  # copies inside the picture
        reader.unsigned()
    if reader.flag():  # deblocking by brightness
        intervals = reader.bits(2) + 1
        reader.signed()
        for _ in range(intervals):
            reader.signed(), reader.unsigned()
    if note("scaling_lists"):
        reader.bits("secondary_transforms" in known)
        if has_colour_transform and reader.flag():
            reader.bits(1)
    reader.bits(2)
    if reader.flag() and not reader.flag():
        found.add("boundaries")
    return found


def _skip_profile(reader: BitReader, sub_layers: int) -> None:
    """profile_tier_level (7.3.3.1)."""
    reader.bits(8 + 8 + 2)
    if reader.flag():  # general_constraints_info
        reader.bits(71)
        reader.bits(reader.bits(8))
    reader.bits(reader.left % 8)
    levels = sum(reader.flag() for _ in range(sub_layers - 1))
    reader.bits(reader.left % 8)
    reader.bits(8 * levels)
    reader.bits(32 * reader.bits(8))


def _skip_subpictures(reader: BitReader, size: tuple[int, int], block_bits: int) -> None:
    """From sps_num_subpics_minus1 on.

    Args:
        reader: in front of it.
        size: width and height of pictures.
        block_bits: log2 of the size of coding tree blocks.
    """
    count = 1 + reader.unsigned(MAX_SUBPICTURES - 1, "number of subpictures, less 1,")
    # Coordinates take as many bits as the number of blocks needs, none where there is one.
    bits = sum((-(-length >> block_bits) - 1).bit_length() for length in size)
    if count > 1:
        is_independent, is_uniform = reader.flag(), reader.flag()
        for place in range(count):
            if not is_uniform or place == 0:
                reader.bits(bits * ((place > 0) + (place < count - 1)))
            if not is_independent:
                reader.bits(2)
    id_bits = 1 + reader.unsigned(15, "size of subpicture numbers, less 1,")
    if reader.flag() and reader.flag():
        reader.bits(id_bits * count)

"""VVC's picture parameter sets, picture headers and slice headers (ITU-T H.266, 7.3.2.5, 7.3.2.8 and 7.3.7):
which pictures a picture is predicted from, which stay, and with which weights.

References are read of pictures of a single slice and tile, as nearly all are.
"""

from dataclasses import dataclass, replace

from .bitstream import BitReader, payload_of
from .coded_picture import BitstreamError
from .hevc_slices import B_SLICE, I_SLICE, LongTerm, Use, known_set, read_weights
from .vvc_sequence import ListEntry, SequenceParameters, read_list

IDR, RANDOM_ACCESS = range(7, 9), range(7, 11)  # types of NAL units (table 5)
HALF_OFFSETS = (128, 128)  # of weighted prediction


@dataclass(frozen=True)
class PictureParameters:
    """What pictures need of a picture parameter set.

    Attributes:
        is_whole: whether pictures are one tile and one slice. The rest is not read where they are not.
    """

    number: int
    sequence_number: int
    is_whole: bool
    has_output_flag: bool = False
    has_cabac_flag: bool = False
    list_sizes: tuple[int, int] = (1, 1)
    has_second_index: bool = False
    has_weights: tuple[bool, bool] = (False, False)
    quantizer_depths: int = 0  # numbers in picture headers
    has_extension: bool = False


@dataclass(frozen=True)
class PictureHeader:
    """The header of a picture.

    Attributes:
        is_intra: whether no slice is predicted from other pictures.
        is_referred: whether others may be predicted from it.
        cycles: higher bits of the picture order count, None where they follow from earlier pictures.
        is_shown: whether it is for display.
        in_picture: which of the sequence's switches it has on.
    """

    sequence: SequenceParameters
    picture: PictureParameters
    is_intra: bool
    is_referred: bool
    poc_lsb: int
    cycles: int | None
    is_shown: bool = True
    in_picture: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether it is one slice and one tile, and its header was read to the end."""
        return self.picture.is_whole and not self.sequence.has_subpictures


@dataclass(frozen=True)
class References:
    """What a slice refers to.

    Attributes:
        entries: of both lists: differences of picture order counts, or long-term references.
        uses: the entries that it uses, by their places in `entries`.
    """

    entries: tuple[int | LongTerm, ...]
    uses: tuple[Use, ...]


def read_picture_parameters(unit: bytes) -> PictureParameters:
    """Of a NAL unit."""
    reader = BitReader(payload_of(unit[2:]))
    number, sequence_number = reader.bits(6), reader.bits(4)
    reader.bits(1)
    reader.unsigned(), reader.unsigned()
    for _ in range(2):  # windows of conformance and scaling
        for _ in range(4 if reader.flag() else 0):
            reader.unsigned()
    has_output_flag, is_whole = reader.flag(), reader.flag()
    if reader.flag() or not is_whole:
        return PictureParameters(number, sequence_number, is_whole=False)
    has_cabac_flag = reader.flag()
    list_sizes = _list_size(reader), _list_size(reader)
    has_second_index = reader.flag()
    has_weights = reader.flag(), reader.flag()
    if reader.flag():  # wraparound
        reader.unsigned()
    reader.signed()
    quantizer_depths = reader.bits(1)
    has_chroma_offsets = reader.flag()
    if has_chroma_offsets:
        reader.signed(), reader.signed()
        has_joint = reader.flag()
        if has_joint:
            reader.signed()
        reader.bits(1)
        if reader.flag():
            quantizer_depths += 1
            count = 1 + reader.unsigned(5, "number of chroma offsets, less 1,")
            for _ in range(count * (3 if has_joint else 2)):
                reader.signed()
    if reader.flag():  # deblocking
        reader.bits(1)
        if not reader.flag():
            for _ in range(6 if has_chroma_offsets else 2):
                reader.signed()
    return PictureParameters(
        number=number,
        sequence_number=sequence_number,
        is_whole=True,
        has_output_flag=has_output_flag,
        has_cabac_flag=has_cabac_flag,
        list_sizes=list_sizes,
        has_second_index=has_second_index,
        has_weights=has_weights,
        quantizer_depths=quantizer_depths,
        has_extension=reader.flag(),
    )


def read_picture_header(
    reader: BitReader, sequences: dict[int, SequenceParameters], pictures: dict[int, PictureParameters]
) -> PictureHeader:
    """picture_header_structure: to its end, or to the picture order count where pictures have several slices.

    Args:
        reader: in front of it.
        sequences: sequence parameter sets by number.
        pictures: picture parameter sets by number.

    Raises:
        BitstreamError: it is damaged, or a parameter set that it names did not come.
    """
    is_random_access = reader.flag()
    is_referred = not reader.flag()
    is_refresh = is_random_access and reader.flag()
    is_intra = not reader.flag()
    allows_intra = is_intra or reader.flag()
    picture = known_set(pictures, reader.unsigned(63, "picture parameter set"), "picture")
    sequence = known_set(sequences, picture.sequence_number, "sequence")
    poc_lsb = reader.bits(sequence.poc_lsb_bits)
    if is_refresh:
        reader.unsigned()
    reader.bits(sequence.extra_picture_bits)
    has_cycles = sequence.cycle_bits > 0 and reader.flag()
    cycles = reader.bits(sequence.cycle_bits) if has_cycles else None
    start = PictureHeader(sequence, picture, is_intra, is_referred, poc_lsb, cycles)
    if not start.is_whole:
        return start
    has = sequence.in_picture
    found = {name for name in has if name == "loop_filter"}
    if "luma_mapping" in has and reader.flag():
        found.add("luma_mapping")
        reader.bits(3 if sequence.has_chroma else 2)
    if "scaling_lists" in has and reader.flag():
        found.add("scaling_lists")
        reader.bits(3)
    if "boundaries" in has and reader.flag():
        for _ in range(2):
            for _ in range(reader.unsigned(3, "number of virtual boundaries")):
                reader.unsigned()
    is_shown = not (picture.has_output_flag and is_referred) or reader.flag()
    overrides = "partitions" in has and reader.flag()
    if allows_intra:
        _skip_partitions(reader, 0 if not overrides else 2 if "dual_tree" in has else 1)
        _skip_numbers(reader, picture.quantizer_depths)
    if not is_intra:
        _skip_partitions(reader, int(overrides))
        _skip_numbers(reader, picture.quantizer_depths)
        if "temporal_vectors" in has and reader.flag():
            found.add("temporal_vectors")
        reader.bits(1 + len(has & {"whole_vectors", "optical_flow", "refinement", "affine_refinement"}))
    reader.bits("joint_chroma" in has)
    if picture.has_extension:
        reader.bits(8 * reader.unsigned(256, "length of an extension"))
    return replace(start, is_shown=is_shown, in_picture=frozenset(found))


def read_references(
    reader: BitReader, kind: int, header: PictureHeader, is_behind_header: bool
) -> References:
    """Of the slice of a picture that is whole (7.3.7).

    Args:
        reader: behind sh_picture_header_in_slice_header_flag and the picture header.
        kind: type of the NAL unit.
        header: of the picture.
        is_behind_header: whether that stands in the slice.

    Raises:
        BitstreamError: it is damaged.
    """
    sequence, picture = header.sequence, header.picture
    reader.bits(sequence.extra_slice_bits)
    slice_type = I_SLICE if header.is_intra else reader.unsigned(I_SLICE, "slice type")
    reader.bits(kind in RANDOM_ACCESS)
    if "loop_filter" in header.in_picture and reader.flag():
        _skip_loop_filter(reader, sequence)
    if not is_behind_header:
        reader.bits(len(header.in_picture & {"luma_mapping", "scaling_lists"}))
    if kind in IDR and not sequence.idr_has_lists:
        return References((), ())
    lists = _read_lists(reader, sequence, picture)
    entries = (*lists[0], *lists[1])
    if slice_type == I_SLICE:
        return References(entries, ())
    count = 2 if slice_type == B_SLICE else 1
    lengths = [len(chosen) for chosen in lists[:count]]
    sizes = [min(pair) for pair in zip(picture.list_sizes, lengths, strict=False)]
    if max(lengths) > 1 and reader.flag():
        sizes = [min(_list_size(reader), length) if length > 1 else length for length in lengths]
    if not sizes[0]:
        raise BitstreamError("a slice is predicted from other pictures and names none")
    active = [
        list(range(first, first + size)) for first, size in zip((0, len(lists[0])), sizes, strict=False)
    ]
    reader.bits(picture.has_cabac_flag)
    if "temporal_vectors" in header.in_picture:
        second = slice_type == B_SLICE and not reader.flag()
        if sizes[second] > 1:
            reader.unsigned()
    if picture.has_weights[slice_type == B_SLICE]:
        return References(entries, read_weights(reader, active, sequence.has_chroma, HALF_OFFSETS))
    return References(entries, tuple(Use(place) for places in active for place in places))


def _read_lists(
    reader: BitReader, sequence: SequenceParameters, picture: PictureParameters
) -> list[list[int | LongTerm]]:
    """ref_pic_lists (7.3.9)."""
    kinds = (sequence.has_weights, sequence.has_long_term, sequence.has_layers, sequence.poc_lsb_bits)
    found = []
    is_named, index = False, 0
    for place, known in enumerate(sequence.lists):
        tells = place == 0 or picture.has_second_index
        if not known:
            is_named = False
        elif tells:
            is_named = reader.flag()
        if is_named and tells:
            index = reader.bits((len(known) - 1).bit_length())
        if is_named and index >= len(known):
            raise BitstreamError(f"a slice names reference list {index} of {len(known)}")
        chosen = known[index] if is_named else read_list(reader, *kinds, in_sequence=False)
        found.append(_read_long_term(reader, sequence, chosen))
    return found


def _read_long_term(
    reader: BitReader, sequence: SequenceParameters, entries: tuple[ListEntry, ...]
) -> list[int | LongTerm]:
    """The entries of a list, the long-term ones with what a picture says of them."""
    found: list[int | LongTerm] = []
    cycles = 0
    for difference, lsb in entries:
        if difference is not None:
            found.append(difference)
            continue
        lsb = reader.bits(sequence.poc_lsb_bits) if lsb is None else lsb
        has_cycles = reader.flag()
        cycles += reader.unsigned() if has_cycles else 0
        found.append(LongTerm(lsb, cycles if has_cycles else None, is_used=True))
    return found


def _list_size(reader: BitReader) -> int:
    return 1 + reader.unsigned(14, "size of a reference list, less 1,")


def _skip_numbers(reader: BitReader, count: int) -> None:
    for _ in range(count):
        reader.unsigned()


def _skip_partitions(reader: BitReader, trees: int) -> None:
    for _ in range(trees):
        reader.unsigned()
        if reader.unsigned():
            reader.unsigned(), reader.unsigned()


def _skip_loop_filter(reader: BitReader, sequence: SequenceParameters) -> None:
    """The sets of the adaptive loop filter, behind the flag that says that it is on."""
    reader.bits(3 * reader.bits(3))
    if sequence.has_chroma and any([reader.flag(), reader.flag()]):
        reader.bits(3)
    if "cross_filter" in sequence.in_picture:
        for _ in range(2):
            reader.bits(3 if reader.flag() else 0)

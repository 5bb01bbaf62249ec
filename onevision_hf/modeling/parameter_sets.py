"""The parameter sets of H.264 and HEVC, which may change inside a stream.

Clips joined without encoding them again, edited recordings and live streams change them on the way: in their
packets, or as another header of the container. A packet that is decoded alone, or after a jump, needs those
in force at it.

    sets = ParameterTrack("h264", extradata)
    for rank, packet in enumerate(packets):
        sets.follow(rank, packet)
    sets.at(150).units
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av

from .bitstream import BitReader, join_units, payload_of, split_annex_b
from .h264_bitstream import PPS, SPS, parse_extradata

# NAL unit types of HEVC (ITU-T H.265, table 7-1); those below 32 are slices.
HEVC_VPS, HEVC_SPS, HEVC_PPS = 32, 33, 34
SEQUENCE_CODE = b"\x00\x00\x01\xb3"  # of MPEG-1 and MPEG-2; the size comes next


@dataclass(frozen=True, eq=False)
class ParameterSets:
    """Those in force at a packet.

    Attributes:
        extradata: the container's header by then.
        units: the parameter sets as NAL units, each after those that it refers to.
        length_size: bytes of a packet's length prefixes, 0 for start codes.
        in_header: whether the header has these, and no others.
    """

    extradata: bytes
    units: tuple[bytes, ...]
    length_size: int
    in_header: bool

    @property
    def prefix(self) -> bytes:
        """The units in the form of the stream's packets, to be put in front of one."""
        return join_units(list(self.units), self.length_size)


class ParameterTrack:
    """Parameter sets along the packets of a stream in the order of decoding. Other codecs have none.

    Attributes:
        breaks: ranks of the packets before which a decoder must give what it holds, since it would lose that:
            MPEG-1 and MPEG-2, where their size changes.

    Args:
        codec: FFmpeg's name.
        extradata: the container's header, b"" where the packets have the sets.
    """

    def __init__(self, codec: str, extradata: bytes):
        self._hevc, self._has_sets = codec == "hevc", codec in ("h264", "hevc")
        self._slices = range(32) if self._hevc else range(1, 6)  # types of NAL units
        self._has_sequences, self._size = codec in ("mpeg1video", "mpeg2video"), b""
        self.breaks: set[int] = set()
        self._set_kinds = (HEVC_VPS, HEVC_SPS, HEVC_PPS) if self._hevc else (SPS, PPS)
        self._sets: dict[tuple[int, int], bytes] = {}
        self._latest: list[bytes] = []
        self._read_header(extradata)
        self._ranks, self._states = [0], [self._state()]

    @classmethod
    def of(cls, codec: str, states: Sequence[ParameterSets]) -> "ParameterTrack":
        """Of packets whose sets are known."""
        track = cls(codec, states[0].extradata)
        track._ranks = [
            rank for rank in range(len(states)) if not rank or states[rank] is not states[rank - 1]
        ]
        track._states = [states[rank] for rank in track._ranks]
        return track

    @property
    def latest(self) -> ParameterSets:
        """Those after the packets so far."""
        return self._states[-1]

    def forget(self) -> None:
        """Keep nothing but the latest, which from here on are those of every packet."""
        self._ranks, self._states = [0], self._states[-1:]

    @property
    def in_header(self) -> bool:
        """Whether the container's header says it all: every decoder has them, wherever it starts."""
        return len(self._states) == 1 and self._states[0].in_header

    @property
    def changes_form(self) -> bool:
        """Whether even the length prefixes of the packets change, which a decoder must see coming."""
        return len({state.length_size for state in self._states}) > 1

    def at(self, rank: int) -> ParameterSets:
        """The sets with which the packet of this rank is decoded."""
        return self._states[bisect.bisect_right(self._ranks, rank) - 1]

    def follow(self, rank: int, packet: av.Packet) -> bool:
        """Look for new sets in the next packet; whether these differ from those before."""
        if self._has_sequences and packet.is_keyframe:
            _, code, sequence = bytes(memoryview(packet)[:64]).partition(SEQUENCE_CODE)
            if code and self._size not in (b"", sequence[:3]):
                self.breaks.add(rank)
            self._size = sequence[:3] if code else self._size
        if not self._has_sets:
            return False
        header = new_header(packet) if packet.is_keyframe else None
        units = self._units_before_slices(memoryview(packet))
        if header is None and (not units or units == self._latest):  # as nearly all
            return False
        before = dict(self._sets), self._length_size
        if header is not None:
            self._read_header(header)
        self._latest = units
        self._renew(units)
        if before == (self._sets, self._length_size):
            return False
        if not before[0]:  # the header had none
            self._ranks, self._states = [0], [self._state()]
            return False
        self._ranks.append(rank)
        self._states.append(self._state())
        return True

    def _state(self) -> ParameterSets:
        units = tuple(self._sets[key] for key in sorted(self._sets))
        return ParameterSets(self._header, units, self._length_size, self._sets == self._header_sets)

    def _read_header(self, extradata: bytes) -> None:
        self._header, self._length_size = extradata, 0
        if not self._has_sets:
            self._header_sets = {}
            return
        read = parse_hevc_extradata if self._hevc else parse_extradata
        try:
            units, self._length_size = read(extradata)
        except IndexError:  # it ends early
            units = []
        self._renew(units)
        self._header_sets = self._by_number(units)

    def _renew(self, units: list[bytes]) -> None:
        self._sets |= self._by_number(units)

    def _by_number(self, units: list[bytes]) -> dict[tuple[int, int], bytes]:
        found = {}
        for unit in units:
            kind = self._kind(unit[0])
            try:
                number = (hevc_set_number if self._hevc else _h264_set_number)(kind, unit)
            except ValueError:  # damaged
                number = None
            if number is not None:
                found[kind, number] = unit.rstrip(b"\x00")
        return found

    def _kind(self, first: int) -> int:
        return first >> 1 & 63 if self._hevc else first & 31

    def _units_before_slices(self, data: memoryview) -> list[bytes]:
        """The parameter sets of a packet; they come before its first slice. Most packets have none."""
        size, at = self._length_size, 0
        if not size:
            return self._annex_b_units_before_slices(data)
        units: list[bytes] = []
        while at + size < len(data):
            begin = at + size
            if self._kind(data[begin]) in self._slices:
                break
            at = begin + int.from_bytes(data[at:begin], "big")
            if at > len(data):
                break
            if begin < at and self._kind(data[begin]) in self._set_kinds:
                units.append(bytes(data[begin:at]))
        return units

    def _annex_b_units_before_slices(self, view: memoryview) -> list[bytes]:
        data = bytes(view)
        at = data.find(b"\x00\x00\x01")
        while 0 <= at < len(data) - 3 and self._kind(data[at + 3]) not in self._slices:
            at = data.find(b"\x00\x00\x01", at + 3)
        units = split_annex_b(data if at < 0 else data[:at])
        return [unit for unit in units if self._kind(unit[0]) in self._set_kinds]


def new_header(packet: Any) -> bytes | None:
    """The header that holds from this packet on, where the container has several."""
    # PyAV has a packet's side data from 16 on; before, sets that change outside of packets are not seen.
    if hasattr(packet, "has_sidedata") and packet.has_sidedata("new_extradata"):
        return bytes(packet.get_sidedata("new_extradata"))
    return None


def parse_hevc_extradata(extradata: bytes) -> tuple[list[bytes], int]:
    """(NAL units of HEVC's header, bytes of a packet's length prefixes or 0 for start codes)."""
    if len(extradata) < 23 or extradata[0] != 1:
        return split_annex_b(extradata), 0
    units, place = [], 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[place + 1 : place + 3], "big")
        place += 3
        for _ in range(count):
            length = int.from_bytes(extradata[place : place + 2], "big")
            units.append(extradata[place + 2 : place + 2 + length])
            place += 2 + length
    return [unit for unit in units if unit], (extradata[21] & 3) + 1


def hevc_set_number(kind: int, unit: bytes) -> int | None:
    """The number of a parameter set of HEVC's base layer (sections 7.3.2.1 to 7.3.2.3); None for other
    units."""
    if kind not in (HEVC_VPS, HEVC_SPS, HEVC_PPS) or len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
        return None
    reader = BitReader(payload_of(unit[2:]))
    if kind == HEVC_VPS:
        return reader.bits(4)
    if kind == HEVC_SPS:
        from .hevc_sequence import skip_profile  # for this codec alone

        reader.bits(4)
        sub_layers = reader.bits(3) + 1
        reader.bits(1)
        skip_profile(reader, sub_layers)
    return reader.unsigned()


def _h264_set_number(kind: int, unit: bytes) -> int | None:
    if kind not in (SPS, PPS) or len(unit) < 2:
        return None
    reader = BitReader(payload_of(unit[1:]))
    if kind == SPS:
        reader.bits(24)
    return reader.unsigned()

"""Headers of packets as FFmpeg itself reads them, by its bitstream filter `trace_headers`."""

import io
import re
from contextlib import suppress
from typing import NamedTuple

import av
import av.logging
from av.bitstream import BitStreamFilterContext


class Field(NamedTuple):
    """Of a header; `at` is its first bit in the unit."""

    name: str
    value: int
    at: int


def traced_fields(packets: list[bytes], encoder: str) -> list[list[Field]]:
    """The header fields of each packet of a codec, named by an encoder of it; up to the first error."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.TRACE)
    found = []
    try:
        with av.open(io.BytesIO(), "w", format="ivf") as container:
            trace = BitStreamFilterContext("trace_headers", container.add_stream(encoder))
            for packet in packets:
                with av.logging.Capture() as lines, suppress(av.FFmpegError):
                    trace.filter(av.Packet(packet))
                fields = [re.match(r"(\d+) +(\S+) +[01]* = (-?\d+)$", line[2].strip()) for line in lines]
                found.append([Field(field[2], int(field[3]), int(field[1])) for field in fields if field])
    finally:
        av.logging.set_level(level)
    return found

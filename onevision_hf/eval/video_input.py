"""One word for what of a video is shown, whatever the processor: "codec", "frames", "both" or "dense".

processor.read_video(path, **video_input(processor, "codec"), max_pixels=100_000)
"""

from typing import Any

from onevision_hf.modeling.processing_llava_onevision2 import LlavaOnevision2Processor

# Of the published models: codec input is canvases; scores for frames were made with lmms-eval's sampling.
PUBLISHED: dict[str, dict[str, Any]] = {
    "codec": {"preset": "ov2"},
    "frames": {"preset": None, "frame_sampling": "lmms_eval"},
}


def takes_canvases(processor: Any) -> bool:
    """Whether it is the processor of a published LLaVA-OneVision-2 or Mage-VL."""
    return isinstance(processor, LlavaOnevision2Processor)


def video_input(processor: Any, shown: str) -> dict[str, Any]:
    """Settings of a processor.

    Args:
        processor: of a multimodal model.
        shown: "codec", "frames", or what else it knows.

    Raises:
        ValueError: what a published model cannot be shown.
    """
    if not takes_canvases(processor):
        return {"video_mode": "frames" if shown == "dense" else shown}
    if shown not in PUBLISHED:
        raise ValueError(
            f"LLaVA-OneVision-2 and Mage-VL are shown {' or '.join(PUBLISHED)} of a video, not {shown!r}"
        )
    return dict(PUBLISHED[shown])


__all__ = ["takes_canvases", "video_input"]

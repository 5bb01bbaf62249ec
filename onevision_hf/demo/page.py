"""The page: the inputs on the left, the clip on the right, downloads below.

    demo = build_page()
    demo.launch(**launch_settings())

It needs gradio: the extra `demo`.
"""

import filecmp
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..assets import bundled_clip
from ..modeling.frame_sampling import SAMPLINGS
from ..modeling.signal_settings import PRESETS, SIGNALS
from ..modeling.video_reader import VideoReadError
from ..view import draw_sheet
from . import panels
from .opened_clip import Choices, Kept, open_clip

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("the page needs gradio: pip install '.[demo]' in a clone") from error

HERE = Path(__file__).parent
MAX_MB = 200
ALL_OF_THE_BUDGET = 100
OWN = "own choice"
GLIDE = "a glide"  # the drawn clip whose direction a linear head predicts
ANCHORS: dict[str, str | int] = {
    "the first frame of each shot": "shots",
    "the first frame": "first",
    "all sampled keyframes": "keyframes",
    "every 16th frame": 16,
    "every 8th frame": 8,
}
SUFFIXES = [".mkv", ".ts", ".m2ts", ".mts", ".avi", ".flv", ".wmv", ".mpg", ".mpeg", ".h264", ".hevc", ".ivf"]
INTRO = """# What a codec sees
A video file already says what moves and what is new. Keep that, drop the rest: move the budget, and look."""


def build_page(examples: Path | None = None) -> "gr.Blocks":
    """The page. `examples` is a folder for the drawn example clips (a temporary one by default)."""
    logging.disable_progress_bar()  # of transformers: weights are loaded for each clip
    clips = _example_clips(examples or Path(tempfile.mkdtemp(prefix="onevision-examples-")))
    # Else gradio's own limits of width go up in steps as the window grows.
    with gr.Blocks(title="onevision: what a codec sees", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(INTRO, elem_id="ov-title")
        # Three parts that page.css lays out: on a phone the inputs first, then the clip, then the rest. The
        # budget stays in sight wherever one scrolls.
        with gr.Row(elem_id="ov-layout"):
            with gr.Column(elem_id="ov-left"):
                with gr.Column(elem_id="ov-first"):
                    clip = gr.File(
                        label="A clip",
                        file_types=["video", *SUFFIXES],
                        elem_id="ov-file",
                        height=150,
                    )
                    gr.Markdown("or one of these examples:", elem_id="ov-examples")
                    with gr.Row(elem_id="ov-example-buttons"):
                        buttons = {name: gr.Button(name, size="sm", min_width=50) for name in clips}
                    budget = gr.Slider(
                        1.6, 50, 12.5, step=0.1, label="budget, % of patches", elem_id="ov-budget"
                    )
                with gr.Column(elem_id="ov-rest"):
                    preset = gr.Radio(
                        [*PRESETS, OWN],
                        value="auto",
                        label="what counts",
                        elem_id="ov-preset",
                        info="auto: the best that the codec gives; published: what the published weights "
                        "were trained with; bits: what each block cost",
                    )
                    signals = gr.CheckboxGroup(
                        SIGNALS,
                        value=["vectors"],
                        label="signals",
                        visible=False,
                        elem_id="ov-signals",
                        info="vectors go with all; residual and bits do not mix with compensated and "
                        "difference",
                    )
                    anchors = gr.Radio(
                        list(ANCHORS),
                        value="the first frame of each shot",
                        label="kept whole",
                        elem_id="ov-anchors",
                    )
                    sampling = gr.Radio(
                        SAMPLINGS,
                        value="uniform",
                        label="frames are taken",
                        elem_id="ov-sampling",
                        info="packet_size: more of them where the stream has more bytes",
                    )
                    frames = gr.Slider(8, 64, 64, step=8, label="frames sampled", elem_id="ov-frames")
                    energy = gr.Slider(
                        50,
                        ALL_OF_THE_BUDGET,
                        ALL_OF_THE_BUDGET,
                        step=1,
                        label="enough energy, %",
                        elem_id="ov-energy",
                        info="a clip that has so much of its energy in fewer patches gets no more; at 100 "
                        "the whole budget is spent",
                    )
            with gr.Column(elem_id="ov-clip"):
                shown = gr.HTML(
                    panels.empty(),
                    elem_id="ov-shown",
                    js_on_load=(HERE / "player.js").read_text(encoding="utf-8"),
                )
                with gr.Row():
                    selection_button = gr.Button(
                        "Download the selection (.npz)", elem_id="ov-selection", interactive=False, size="md"
                    )
                    picture_button = gr.Button(
                        "Download the picture (.png)", elem_id="ov-picture", interactive=False, size="md"
                    )
                selection_file = gr.DownloadButton(visible="hidden", elem_id="ov-selection-file")
                picture_file = gr.DownloadButton(visible="hidden", elem_id="ov-picture-file")
                directions = gr.HTML(visible=False, elem_id="ov-directions")

        inputs = [clip, budget, preset, signals, anchors, sampling, frames, energy]
        outputs = [shown, selection_button, picture_button]
        # One event for all inputs, so that an earlier answer never comes after a later one; of the
        # positions that a slider passed only the last counts.
        gr.on(
            [
                clip.change,
                budget.release,
                frames.release,
                energy.release,
                *(choice.change for choice in (preset, signals, anchors, sampling)),
            ],
            _show,
            inputs,
            outputs,
            show_progress="minimal",
            trigger_mode="always_last",
        )
        preset.change(lambda name: gr.update(visible=name == OWN), preset, signals, show_progress="hidden")
        clip.change(lambda path: _directions(path, clips[GLIDE]), clip, directions, show_progress="minimal")
        for name, button in buttons.items():
            button.click(lambda name=name: str(clips[name]), None, clip, show_progress="hidden")
        for button, make, file in (
            (selection_button, _selection_file, selection_file),
            (picture_button, _picture_file, picture_file),
        ):
            click = f"() => document.querySelector('#{file.elem_id}').click()"
            button.click(make, inputs, file, show_progress="minimal").success(None, None, None, js=click)
    page.queue(default_concurrency_limit=2)
    return page


def launch_settings(max_mb: int = MAX_MB) -> dict[str, Any]:
    """Arguments of `launch` that belong to the page: its looks, and the size of what may be dropped."""
    return {
        "max_file_size": f"{max_mb}mb",
        "allowed_paths": [str(bundled_clip().parent)],  # an example; the others lie in the temporary folder
        "css": (HERE / "page.css").read_text(encoding="utf-8"),
        "theme": gr.themes.Default(primary_hue="orange", font=["system-ui", "sans-serif"]),
        "footer_links": [],
        "quiet": True,
    }


def _keep(
    clip: str,
    budget: float,
    preset: str,
    signals: list[str],
    anchors: str,
    sampling: str,
    frames: float,
    energy: float,
) -> Kept:
    """What is kept.

    Args:
        clip: the file.
        budget: % of the patches.
        preset: of signals, or `OWN`.
        signals: that are then chosen.
        anchors: one of `ANCHORS`.
        sampling: of frames.
        frames: how many.
        energy: % of the energy at which fewer patches are enough; `ALL_OF_THE_BUDGET` for never.
    """
    if preset == OWN and not signals:
        raise ValueError("choose at least one signal")
    chosen = tuple(name for name in SIGNALS if name in signals) if preset == OWN else None
    choices = Choices(int(frames), "auto" if preset == OWN else preset, chosen, sampling)
    share = None if energy == ALL_OF_THE_BUDGET else energy / 100
    return open_clip(clip, choices).cut(budget / 100, ANCHORS[anchors], share)


def _show(clip: str | None, *inputs: Any) -> tuple[str, Any, Any]:
    """The clip as HTML, or in words why it cannot be shown; downloads where there is something."""
    ready = False
    if clip is None:
        content = panels.empty()
    else:
        try:
            content, ready = panels.show(_keep(clip, *inputs)), True
        except (VideoReadError, ValueError) as error:
            content = panels.failure(_message(error, clip))
    return content, gr.update(interactive=ready), gr.update(interactive=ready)


def _message(error: Exception, clip: str) -> str:
    """An error without the folder that the upload was put in."""
    return " ".join(str(error).split()).replace(f"{Path(clip).parent}/", "")


def _directions(clip: str | None, glide: Path) -> Any:
    """What a linear head predicts for the drawn clip `glide`; of other clips it knows nothing."""
    from ..eval.probes.direction_head import FAMILY, demonstrate

    if clip is None or not filecmp.cmp(clip, glide, shallow=False):
        return gr.update(value="", visible=False)
    drawn, probabilities = demonstrate()
    return gr.update(value=panels.directions(probabilities, str(drawn.labels[FAMILY])), visible=True)


def _selection_file(clip: str, *inputs: Any) -> str:
    """What `Selection` holds, as arrays."""
    kept = _keep(clip, *inputs)
    selection = kept.selection
    path = _file_for(clip, ".npz")
    np.savez_compressed(
        path,
        positions=selection.positions,
        frame_ids=selection.frame_ids,
        timestamps=selection.timestamps,
        scores=selection.scores,
        energy=selection.energy,
        picture_types=np.array(selection.picture_types),
        signal=np.array(selection.signal),
        patch_size=np.array(selection.geometry.patch_size),
    )
    return str(path)


def _picture_file(clip: str, *inputs: Any) -> str:
    """The sheet of `onevision view`."""
    path = _file_for(clip, ".png")
    draw_sheet(_keep(clip, *inputs).sheet_view).save(path)
    return str(path)


def _file_for(clip: str, suffix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix="onevision-")) / f"{Path(clip).stem}{suffix}"


def _example_clips(folder: Path) -> dict[str, Path]:
    """The bundled clip, and three that are drawn here."""
    from ..eval.probes.direction_head import DEMO_SEED, FAMILY
    from ..synthetic import draw_clip, encode

    clips = {"valley": bundled_clip()}
    for name, seed, family in (
        (GLIDE, DEMO_SEED, FAMILY),
        ("a nudge", 7, "nudge_direction"),
        ("text", 7, "word"),
    ):
        clips[name] = folder / f"{name.replace(' ', '-')}.mp4"
        clips[name].write_bytes(encode(draw_clip(seed, 0, family).frames))
    return clips


def serve(host: str, port: int, max_mb: int, open_browser: bool, ready: Callable[[str], None]) -> None:
    """Serve the page until interrupted.

    Args:
        host: the address to listen at.
        port: the port to listen at.
        max_mb: largest file taken, in MB.
        open_browser: open the page in a browser.
        ready: gets the address of the page.

    Raises:
        OSError: the port is taken.
    """
    page = build_page()
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        **launch_settings(max_mb),
    )
    ready(address)
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)

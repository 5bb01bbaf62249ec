"""The page in a headless Chromium: from dropping a file to the downloads, and what it says of bad ones.

Run: make test-browser
"""

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import free_port

from onevision_hf import bundled_clip
from onevision_hf.synthetic import draw_clip, encode

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
PATIENCE = 180_000  # milliseconds; a busy machine must not fail a test
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: name.endsWith(".mp4") ? "video/mp4" : "text/plain"}));
  return transfer;
}"""


@contextmanager
def served(*words: str):
    """The command in a process of its own; its address."""
    command = [sys.executable, "-m", "onevision_hf.cli", "demo", "--port", str(free_port())]
    process = subprocess.Popen(
        [*command, "--no-browser", "--json", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()  # not SIGINT, which a job in the background of a shell ignores
        process.wait(60)


@pytest.fixture(scope="module")
def address():
    with served() as url:
        yield url


@pytest.fixture(scope="module")
def chromium():
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A root user in a container has no sandbox.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A page of the browser at an address; script errors fail the test."""
    contexts, errors = [], []

    def open_at(url, width=1280, height=900, **settings):
        context = chromium.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#ov-file")
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert errors == []


def drop(page, name, content):
    """Drop a file as a person does: a drop event with the file in it."""
    if page.locator("#ov-file button[aria-label='Clear']").count():
        page.locator("#ov-file button[aria-label='Clear']").click()
    transfer = page.evaluate_handle(DROP, [name, base64.b64encode(content).decode()])
    page.locator("#ov-file button").first.dispatch_event("drop", {"dataTransfer": transfer})


def drawn(page):
    page.wait_for_selector(".ov-panels[data-drawn]")
    return page.inner_text(".ov-figures")


def test_from_a_dropped_file_to_the_downloads(address, open_page, tmp_path):
    page = open_page(address)
    drop(page, "my clip.mp4", bundled_clip().read_bytes())
    assert "3,584 of 28,672 (12.5 %)" in drawn(page)
    assert "B, from both sides: 78" in page.inner_text(".ov-axis")
    # The canvases show something in colour, if not in the frame that plays now: the first has no energy.
    page.wait_for_function(
        """() => {
          const canvases = [...document.querySelectorAll('.ov-panels canvas')];
          return canvases.length === 3 && canvases.every((canvas) => {
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            for (let i = 0; i < pixels.length; i += 4)
              if (Math.abs(pixels[i] - pixels[i + 2]) > 100) return true;
            return false; }); }"""
    )

    # Moving the budget redraws.
    slider = page.locator("#ov-budget input[type=range]")
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    page.wait_for_function("() => !document.querySelector('.ov-figures').innerText.includes('3,584')")
    share = float(re.search(r"\(([\d.]+) %\)", drawn(page))[1])
    assert 20 < share < 32

    with page.expect_download() as download:
        page.locator("#ov-selection").click()
    assert download.value.suggested_filename == "my clip.npz"
    download.value.save_as(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert len(file["positions"]) / 286.72 == pytest.approx(share, abs=0.06)
        assert file["energy"].shape == (64, 16, 28) and str(file["signal"]) == "vectors+residual"
    with page.expect_download() as download:
        page.locator("#ov-picture").click()
    download.value.save_as(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size[0] == 2000


def test_a_drawn_clip_has_its_direction_beside_the_truth_and_other_clips_have_none(address, open_page):
    page = open_page(address)
    page.get_by_role("button", name="a glide").click()
    drawn(page)
    page.wait_for_selector("#ov-directions td:text-is('the truth')")
    page.get_by_role("button", name="valley").click()
    page.wait_for_selector("#ov-directions", state="detached")


def test_signals_anchors_and_sampling_are_obeyed(address, open_page):
    page = open_page(address)
    page.get_by_role("button", name="a nudge").click()
    drawn(page)
    page.locator("#ov-preset").get_by_label("bits").click()
    page.wait_for_selector(".ov-signal:text-matches('^bits')")
    page.locator("#ov-preset").get_by_label("own choice").click()
    page.wait_for_selector(".ov-signal:text-is('vectors')")
    page.locator("#ov-signals").get_by_label("difference").click()
    page.wait_for_selector(".ov-signal:text-is('vectors+difference')")
    page.locator("#ov-signals").get_by_label("bits").click()
    assert "bits" in page.inner_text(".ov-error") and page.locator("#ov-picture").is_disabled()
    page.locator("#ov-signals").get_by_label("bits").click()
    page.locator("#ov-anchors").get_by_label("every 8th frame").click()
    page.wait_for_function("() => document.querySelector('.ov-figures')?.innerText.match(/8 of 64/)")
    slider = page.locator("#ov-frames input[type=range]")
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    page.wait_for_function("() => document.querySelector('.ov-figures')?.innerText.match(/ of (32|40)/)")
    before = page.get_attribute(".ov-panels", "data-moments")
    page.locator("#ov-sampling").get_by_label("packet_size").click()
    page.wait_for_function(
        "(before) => ![before, undefined].includes(document.querySelector('.ov-panels')?.dataset.moments)",
        arg=before,
    )


def test_a_broken_file_is_said_by_name_and_the_next_one_works(address, open_page):
    page = open_page(address)
    drop(page, "broken.mp4", bundled_clip().read_bytes()[:3000])
    said = page.inner_text(".ov-error")
    assert (
        "broken.mp4" in said
        and "/" not in said.replace(" / ", "")
        and page.locator("#ov-selection").is_disabled()
    )
    drop(page, "good.mp4", encode(draw_clip(1, 0).frames))
    assert "2,048 of 16,384" in drawn(page) and page.locator(".ov-error").count() == 0


def test_what_is_no_video_is_refused(address, open_page):
    page = open_page(address)
    drop(page, "notes.txt", b"hello")
    assert "nvalid file type" in page.locator("[data-testid=toast-body]").first.inner_text()


def test_a_file_over_the_limit_is_refused_with_the_limit(open_page):
    with served("--max-mb", "1") as url:
        page = open_page(url)
        drop(page, "giant.mp4", bytes(1_500_000))
        said = page.locator("[data-testid=toast-body]").first.inner_text()
        assert re.search(r"size", said) and re.search(r"\b1(\.0)? ?MB", said, re.IGNORECASE), said


def test_it_fits_a_phone(address, open_page):
    page = open_page(address, 390, 844, is_mobile=True, has_touch=True)
    page.get_by_role("button", name="a nudge").click()
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [page.locator(name).bounding_box()["y"] for name in ("#ov-file", "#ov-clip", "#ov-rest")]
    assert tops == sorted(tops)
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    assert (
        0 <= page.locator("#ov-budget").bounding_box()["y"] < 300
    )  # wherever one is, the budget is in sight
    small = page.evaluate(
        """() => [...document.querySelectorAll('.ov-clip *, #ov-examples *')]
            .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
            .filter((e) => e.checkVisibility() && parseFloat(getComputedStyle(e).fontSize) < 13)
            .map((e) => e.textContent)"""
    )
    assert small == []


def test_the_page_grows_with_the_window_and_not_in_steps(address, open_page):
    page = open_page(address)
    widths = []
    for wide in range(800, 1440, 20):
        page.set_viewport_size({"width": wide, "height": 900})
        widths.append(page.locator("#ov-layout").bounding_box()["width"])
    assert max(after - before for before, after in itertools.pairwise(widths)) <= 21
    assert widths == sorted(widths) and widths[-1] > 1200


def test_a_portrait_clip_stands_beside_its_energy_without_bars(address, open_page):
    page = open_page(address)
    frames = draw_clip(3, 0).frames
    height = frames.shape[1]
    drop(page, "portrait.mp4", encode(np.ascontiguousarray(frames[:, :, : 2 * (9 * height // 32)])))
    drawn(page)
    kept, energy, whole = (figure.bounding_box() for figure in page.locator(".ov-panels canvas").all())
    assert kept["y"] == energy["y"] == whole["y"]
    assert kept["x"] + kept["width"] <= energy["x"] and energy["x"] + energy["width"] <= whole["x"]
    assert kept["height"] > 1.5 * kept["width"]
    page.mouse.wheel(0, 3000)
    box = page.locator("#ov-budget").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 900


def test_examples_are_called_examples(address, open_page):
    page = open_page(address)
    label = page.locator("#ov-examples")
    assert "examples" in label.inner_text()
    assert label.bounding_box()["y"] < page.get_by_role("button", name="valley").bounding_box()["y"]


def test_the_folder_runs_as_a_space(tmp_path):
    folder = tmp_path / "space"
    shutil.copytree(ROOT / "onevision_hf" / "demo", folder, ignore=shutil.ignore_patterns("__pycache__"))
    head = (folder / "README.md").read_text().split("---")[1]
    assert "sdk: gradio" in head and "app_file: app.py" in head
    port = free_port()
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=variables)
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    assert answer.status == 200 and b"what a codec sees" in answer.read()
                    return
            except OSError:
                time.sleep(0.5)
        pytest.fail("the page did not come up")
    finally:
        process.terminate()
        process.wait(60)

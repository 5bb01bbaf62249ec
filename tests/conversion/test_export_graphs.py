"""Exported graphs give the model's outputs, for other sizes than were traced, without this package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from onevision_hf import OneVisionConfig, OneVisionModel
from onevision_hf.cli import main
from onevision_hf.conversion.export_graphs import WEIGHTS, export
from onevision_hf.conversion.graphs import TOLERANCE, ExportError, VideoGraph, compare

# Refuses our package and, for ONNX, torch and transformers too.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(name + " was imported")
sys.meta_path.insert(0, Refuse())
"""
RUN_ONNX = """
import numpy as np, onnxruntime
given = np.load(sys.argv[2])
video = onnxruntime.InferenceSession(sys.argv[1] + "/video.onnx", providers=["CPUExecutionProvider"])
image = onnxruntime.InferenceSession(sys.argv[1] + "/image.onnx", providers=["CPUExecutionProvider"])
names = [i.name for i in video.get_inputs()]
found = video.run(["pooler_output"], {n: given[n] for n in names}) + image.run(
    ["pooler_output"], {"pixel_values": given["pixel_values"]})
np.savez(sys.argv[3], video=found[0], image=found[1])
"""
RUN_TORCH = """
import numpy as np, torch
given = {n: torch.from_numpy(a) for n, a in np.load(sys.argv[2]).items()}
names = ["pixel_values_videos", "patch_positions", "pixel_attention_mask"]
video = torch.export.load(sys.argv[1] + "/video.pt2").module()(*[given[n] for n in names])[1]
image = torch.export.load(sys.argv[1] + "/image.pt2").module()(given["pixel_values"])[1]
np.savez(sys.argv[3], video=video.detach().numpy(), image=image.detach().numpy())
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder whose weights are large enough for attention not to be uniform."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(3)
    model = OneVisionModel(OneVisionConfig.tiny(layer_norm_type="rms_norm"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_the_graphs_give_the_models_outputs_where_the_package_is_not(encoder, tmp_path, runtime, capfd):
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    assert main(["export", runtime, str(encoder), str(out), "--json"]) == 0
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert set(report["relative_error"]) == {"video", "image"}
    assert all(error <= TOLERANCE for error in report["relative_error"].values())
    assert set(report) == {"out", "files", "relative_error"}  # one run on a busy machine tells no speed
    record = json.loads((out / "export.json").read_text())
    assert record["graphs"]["video"]["inputs"]["patch_positions"]["dtype"] == "int64"
    if runtime == "onnx":  # both graphs read one file of weights
        assert set(report["files"]) == {"video.onnx", "image.onnx", WEIGHTS, "export.json"}
        assert report["files"][WEIGHTS] < 1.2 * (encoder / "model.safetensors").stat().st_size

    model = OneVisionModel.from_pretrained(encoder).eval()
    pixels, positions, mask = VideoGraph(model).example(5, 33, seed=9)
    given = {
        "pixel_values_videos": pixels,
        "patch_positions": positions,
        "pixel_attention_mask": mask,
        "pixel_values": torch.randn(2, 3, 42, 70),
    }
    np.savez(tmp_path / "given.npz", **{name: tensor.numpy() for name, tensor in given.items()})
    blocked = {"onevision_hf", "transformers"} | ({"torch"} if runtime == "onnx" else set())
    code = ALONE.format(blocked=blocked) + (RUN_ONNX if runtime == "onnx" else RUN_TORCH)
    words = [str(out), str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    with torch.inference_mode():
        image = model(pixel_values=given.pop("pixel_values")).pooler_output.numpy()
        video = model(**given).pooler_output.numpy()
    for ours, theirs in ((video, found["video"]), (image, found["image"])):
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(ours).max()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_path_of_another_opset_and_attention(encoder, tmp_path):
    pytest.importorskip("onnxruntime")
    one = export("onnx", str(encoder), tmp_path / "one", paths=("image",), opset=20, attention="eager")
    assert set(one.files) == {"image.onnx", WEIGHTS, "export.json"} and set(one.error) == {"image"}


def test_an_encoder_without_a_head_has_one_output(tmp_path):
    OneVisionModel(OneVisionConfig.tiny(use_head=False)).save_pretrained(tmp_path / "headless")
    export("torch", str(tmp_path / "headless"), tmp_path / "out", paths=("video",))
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["graphs"]["video"]["outputs"] == ["last_hidden_state"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dtype", "bfloat16"], "dtype 'bfloat16': graphs are exported in float32"),
        (["--attn-implementation", "flash_attention_2"], "'flash_attention_2' runs in kernels of its own"),
        (["--opset", "11"], "opset 11 is out of range: choose 18 to 23"),
        (["--paths", "video,audio"], "unknown path ['audio']"),
    ],
)
def test_options_that_no_graph_can_have_are_refused(encoder, tmp_path, words, says, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["export", "onnx", str(encoder), str(tmp_path / "out"), *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line and not list(tmp_path.iterdir())


def test_other_models_full_folders_and_a_missing_onnx_are_refused(encoder, tmp_path, monkeypatch):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ExportError, match="is a vit; graphs are made of onevision_encoder"):
        export("torch", str(tmp_path / "vit"), tmp_path / "out")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        export("torch", str(encoder), tmp_path / "vit")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[export\]'"):
        export("onnx", str(encoder), tmp_path / "out")


def test_a_graph_that_differs_is_not_kept(encoder):
    graph = VideoGraph(OneVisionModel.from_pretrained(encoder).eval())
    assert compare(graph, graph) == 0
    with pytest.raises(ExportError, match=r"off by 1.0e-0[23] of the largest output"):
        compare(graph, lambda *inputs: [output * 1.01 for output in graph(*inputs)])

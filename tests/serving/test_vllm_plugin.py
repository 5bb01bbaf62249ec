"""vLLM's plugin without vLLM: what it imports, registers and refuses. What it serves: `make test-vllm`.

Run: python -m pytest tests/serving
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from onevision_hf.serving import vllm_plugin


def test_the_entry_point_is_a_function_whose_module_imports_nothing_large():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {
        "onevision": "onevision_hf.serving.vllm_plugin:register"
    }
    seen = "print({'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    command = [sys.executable, "-c", f"import sys, onevision_hf.serving.vllm_plugin; {seen}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.fixture
def vllm(monkeypatch):
    """As much of vLLM as `register` touches."""
    seen = SimpleNamespace(models={}, loaders={}, configs={})
    top, config, video = (
        ModuleType(name) for name in ("vllm", "vllm.model_executor.models.config", "vllm.multimodal.video")
    )
    top.ModelRegistry = SimpleNamespace(register_model=seen.models.__setitem__)
    config.MODELS_CONFIG_MAP = seen.configs
    video.VIDEO_LOADER_REGISTRY = SimpleNamespace(
        register=lambda name: lambda loader: seen.loaders.update({name: loader})
    )
    for module in (top, config, video):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("vllm.model_executor", "vllm.model_executor.models", "vllm.multimodal"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    seen.top = top
    return seen


def test_our_and_the_published_names_are_registered_by_name(vllm):
    vllm.top.__version__ = "0.32.1"
    for _ in range(2):  # vLLM may call it again
        vllm_plugin.register()
    names = {*vllm_plugin.OURS, *vllm_plugin.PUBLISHED}
    assert vllm.models == dict.fromkeys(
        names, "onevision_hf.serving.vllm_model:OneVisionVLForConditionalGeneration"
    )
    assert vllm.configs.keys() == names and vllm.loaders == {"onevision": vllm_plugin.KeptVideo}


def test_another_version_is_refused_by_name_and_keeps_its_own_classes(vllm, capsys):
    vllm.top.__version__ = "0.33.0"
    vllm_plugin.register()
    assert vllm.models.keys() == {"OneVisionVLForConditionalGeneration"} and not vllm.configs
    said = capsys.readouterr().err
    assert "0.32" in said and "found 0.33.0" in said and said.count("\n") == 1
    assert [vllm_plugin.is_supported(version) for version in ("0.32.0", "0.32.1rc2", "0.3", "0.320.1")] == [
        *(True, True, False, False)
    ]


def test_a_video_stays_a_file_and_settings_of_decoding_are_refused():
    assert vllm_plugin.KeptVideo.load_bytes(b"file", num_frames=32) == (None, {})
    with pytest.raises(ValueError, match=r"not followed \(fps, num_frames\).*mm_processor_kwargs"):
        vllm_plugin.KeptVideo.load_bytes(b"file", num_frames=8, fps=2)


def test_the_loader_is_the_models_default_and_another_may_be_named():
    for given, want in (
        (None, {"video": {"video_backend": "onevision"}}),
        (
            {"image": {"a": 1}, "video": {"video_backend": "opencv"}},
            {"image": {"a": 1}, "video": {"video_backend": "opencv"}},
        ),
    ):
        config = SimpleNamespace(multimodal_config=SimpleNamespace(media_io_kwargs=given))
        vllm_plugin.KeepVideos.verify_and_update_model_config(config)
        assert config.multimodal_config.media_io_kwargs == want
    vllm_plugin.KeepVideos.verify_and_update_model_config(SimpleNamespace(multimodal_config=None))

"""`import onevision_hf` is light, and transformers knows its classes whichever of the two comes first."""

import ast
import inspect
import json
import subprocess
import sys
import textwrap

import pytest
from processes import fresh

import onevision_hf
from onevision_hf import registration

pytestmark = pytest.mark.timeout(900)  # each process imports everything, which takes long on a busy machine
LARGE = "{'torch', 'transformers', 'numpy', 'av', 'PIL'}"


def run(code: str, start=fresh) -> str:
    """Standard output of a process in which neither transformers nor the package were imported before."""
    done = start(code)
    assert done.returncode == 0 and "is not registered" not in done.stderr, done.stderr
    return done.stdout


def test_the_package_imports_nothing_large_by_itself_and_selection_neither_torch_nor_transformers():
    def alone(code: str):
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900)

    code = f"""
        import sys
        import onevision_hf
        assert not {LARGE} & set(sys.modules)
        assert {{"OneVisionModel", "select_patches", "tiny"}} <= set(dir(onevision_hf))
        onevision_hf.tiny(), onevision_hf.bundled_clip(), onevision_hf.__version__
        assert not {LARGE} & set(sys.modules)
        sys.modules["torch"] = sys.modules["transformers"] = None
        kept = onevision_hf.select_patches(onevision_hf.bundled_clip(), num_frames=2)
        assert len(kept.positions)
        """
    run(code, alone)


def test_a_model_and_a_processor_cost_no_reader_of_a_single_codec_and_no_conversions_of_other_models():
    """Reading and painting beyond H.264 comes with the first such video, transformers' tower with the first
    model that has it; transformers' table of conversions, which takes longer to compile than this package to
    import, with the first model that is loaded."""
    run("""
        import sys
        from onevision_hf import OneVisionModel, OneVisionVideoProcessor
        from transformers import AutoModel, AutoVideoProcessor, conversion_mapping
        modules = [name.rpartition("onevision_hf.modeling.")[2] for name in sys.modules]
        codecs = ("av1_", "hevc_", "vvc_", "vp8_", "vp9_", "painted_", "motion_field", "frame_maps")
        found = {name for name in modules if name.startswith(codecs)}
        assert "video_reader" in modules and found == {"painted_codecs"}, found
        assert "transformers.models.qwen3_vl.modeling_qwen3_vl" not in sys.modules
        assert conversion_mapping._checkpoint_conversion_mapping_cache is None
        """)


def test_users_type_checkers_and_the_import_see_the_same_public_names(monkeypatch):
    tree = ast.parse(inspect.getsource(onevision_hf))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name: node.module for node in typed.body for alias in node.names}
    assert imported == registration.PUBLIC
    own = {"__version__", "bundled_clip", "tiny"}
    assert set(onevision_hf.__all__) == set(registration.PUBLIC) | own
    for name in onevision_hf.__all__:
        assert getattr(onevision_hf, name) is getattr(onevision_hf, name)
    with pytest.raises(AttributeError, match="has no attribute 'OneVisionModell'"):
        _ = onevision_hf.OneVisionModell
    assert {name for entry in registration.CLASSES for name in entry[1:]} <= set(onevision_hf.__all__)


WAYS = {
    "before": "import onevision_hf",
    "after": "import transformers, onevision_hf",
    "after the Auto classes": "from transformers import AutoModel, AutoProcessor; import onevision_hf",
    "from a module that needs Auto classes": "import onevision_hf.modeling.modeling_onevision_vl",
    "from a module that others need": "import onevision_hf.pretraining.towers",
    "by a module that imports Auto classes": "import onevision_hf, transformers.modeling_utils",
    "by a public name": "from onevision_hf import OneVisionVLProcessor",
}
CHECK = """
import json
import onevision_hf
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor
folder = onevision_hf.tiny()
autos = (AutoConfig, AutoModel, AutoVideoProcessor, AutoImageProcessor)
found = [type(auto.from_pretrained(folder)) for auto in autos]
assert [cls._auto_class for cls in found] == [auto.__name__ for auto in autos]
import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
mappings = {
    "AutoProcessor": PROCESSOR_MAPPING,
    "AutoVideoProcessor": VIDEO_PROCESSOR_MAPPING,
    "AutoImageProcessor": IMAGE_PROCESSOR_MAPPING,
}
from onevision_hf import registration
for auto, config, name in registration.CLASSES:
    config = getattr(onevision_hf, config)
    if auto == "AutoConfig":
        known = type(AutoConfig.for_model(config.model_type))
    else:
        mapping = mappings.get(auto)
        known = (getattr(transformers, auto)._model_mapping if mapping is None else mapping)[config]
    known = known["torchvision"] if isinstance(known, dict) else known
    assert known is getattr(onevision_hf, name), (auto, name, known)
print(json.dumps([cls.__name__ for cls in found]))
"""


# Of each kind one: both packages in either order, and a module of each that imports the other's on its way.
QUICK = (
    *("before", "after the Auto classes"),
    *("from a module that needs Auto classes", "by a module that imports Auto classes"),
)


@pytest.mark.parametrize(
    "way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
def test_the_auto_classes_know_every_class_in_whatever_order_modules_are_imported(way):
    found = run(WAYS[way] + CHECK).splitlines()[-1]
    assert json.loads(found) == [
        "OneVisionConfig",
        "OneVisionModel",
        "OneVisionVideoProcessor",
        "OneVisionImageProcessor",
    ]


def test_what_cannot_be_imported_is_a_warning_and_transformers_works():
    run("""
        import sys, warnings
        import onevision_hf
        sys.modules["onevision_hf.modeling.image_processing_onevision"] = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from transformers import AutoImageProcessor, AutoModel
        messages = [str(w.message) for w in caught if "not registered" in str(w.message)]
        expected = "OneVisionImageProcessor is not registered with AutoImageProcessor: "
        assert sum(message.startswith(expected) for message in messages) == 1
        assert type(AutoModel.from_pretrained(onevision_hf.tiny())).__name__ == "OneVisionModel"
        """)


def test_a_reload_and_threads_leave_one_finder_and_everything_registered():
    run("""
        import importlib, sys, threading
        import onevision_hf
        def load():
            from transformers import AutoModel, AutoVideoProcessor
            from onevision_hf import OneVisionVLForConditionalGeneration
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        importlib.reload(onevision_hf)
        importlib.reload(onevision_hf.registration).install()
        names = [type(finder).__name__ for finder in sys.meta_path]
        assert names.count("AfterImport") == 1
        from transformers.models.auto import configuration_auto
        importlib.reload(configuration_auto)
        assert configuration_auto.CONFIG_MAPPING["onevision_encoder"] is onevision_hf.OneVisionConfig
        """)

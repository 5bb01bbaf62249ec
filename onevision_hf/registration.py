"""Which class belongs to which of transformers' Auto classes; registered as soon as both are imported.

`import onevision_hf` installs `AfterImport` and imports nothing large. When one of transformers' modules with
Auto classes has been executed (or at once, where that has happened before), the classes below are imported
and registered, so `AutoModel.from_pretrained` and its kin find them whichever package was imported first. A
class of ours also learns here that what it saves carries its code, to load where this package is not
installed.
"""

import gc
import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

_OURS = __name__.rpartition(".")[0] + "."


# The package's public names and the modules that they are imported from when they are used.
PUBLIC = {
    "CanvasSelection": "modeling.canvas_selection",
    "CodecCanvases": "modeling.codec_canvases",
    "CodecSignals": "modeling.codec_signal_reader",
    "CodecStream": "streaming.codec_stream",
    "FeatureFolder": "eval.feature_folder",
    "FrameSignals": "modeling.codec_signal_reader",
    **dict.fromkeys(
        (
            *("LlavaOnevision2Config", "LlavaOnevision2MoeConfig"),
            *("LlavaOnevision2VisionConfig", "MageVLConfig", "MageVLVisionConfig"),
        ),
        "modeling.configuration_llava_onevision2",
    ),
    **dict.fromkeys(
        (
            *("LlavaOnevision2ForConditionalGeneration", "LlavaOnevision2Model"),
            *("LlavaOnevision2MoeForConditionalGeneration", "LlavaOnevision2MoeModel"),
            *("MageVLForConditionalGeneration", "MageVLModel", "MageVLVisionModel"),
        ),
        "modeling.modeling_llava_onevision2",
    ),
    "LlavaOnevision2Processor": "modeling.processing_llava_onevision2",
    "LlavaOnevision2VideoProcessor": "modeling.video_processing_llava_onevision2",
    "MissingVAEError": "modeling.modeling_openvision3",
    "OneVisionConfig": "modeling.configuration_onevision",
    "OneVisionForImageClassification": "modeling.modeling_onevision_classification",
    "OneVisionForVideoClassification": "modeling.modeling_onevision_classification",
    "OneVisionImageProcessor": "modeling.image_processing_onevision",
    "OneVisionModel": "modeling.modeling_onevision",
    "OneVisionVLConfig": "modeling.configuration_onevision_vl",
    "OneVisionVLForConditionalGeneration": "modeling.modeling_onevision_vl",
    "OneVisionVLImageProcessor": "modeling.image_processing_onevision_vl",
    "OneVisionVLModel": "modeling.modeling_onevision_vl",
    "OneVisionVLProcessor": "modeling.processing_onevision_vl",
    "OneVisionVLVideoProcessor": "modeling.video_processing_onevision_vl",
    "OneVisionVideoProcessor": "modeling.video_processing_onevision",
    "OpenVision3Config": "modeling.configuration_openvision3",
    "OpenVision3ImageProcessor": "modeling.image_processing_openvision3",
    "OpenVision3Model": "modeling.modeling_openvision3",
    "Selection": "modeling.patch_selection",
    "StreamEvent": "streaming.codec_stream",
    "StreamWindow": "streaming.codec_stream",
    "UnifiedForPreTraining": "pretraining",
    "UnifiedPreTrainingConfig": "pretraining",
    "VideoPatches": "modeling.video_processing_onevision_vl",
    "VideoReadError": "modeling.video_reader",
    "VideoReader": "modeling.video_reader",
    "iter_codec_signals": "modeling.codec_signal_reader",
    "read_canvases": "modeling.codec_canvases",
    "read_codec_signals": "modeling.codec_signal_reader",
    "select_canvases": "modeling.canvas_selection",
    "select_patches": "modeling.patchify_config",
}


class Registered(NamedTuple):
    """`name` is what the Auto class `auto` gives for models with this config; all names are public."""

    auto: str
    config: str
    name: str


def _published(name: str) -> list[Registered]:
    """The classes of a published multimodal model, whose names begin with `name`."""
    config, model = f"{name}Config", f"{name}ForConditionalGeneration"
    autos = ("AutoModelForCausalLM", "AutoModelForMultimodalLM", "AutoModelForImageTextToText")
    return [
        Registered("AutoConfig", config, config),
        Registered("AutoModel", config, f"{name}Model"),
        *(Registered(auto, config, model) for auto in autos),
        Registered("AutoProcessor", config, "LlavaOnevision2Processor"),
        Registered("AutoVideoProcessor", config, "LlavaOnevision2VideoProcessor"),
    ]


_ENCODER, _OPENVISION, _VL = "OneVisionConfig", "OpenVision3Config", "OneVisionVLConfig"
_UNIFIED = "UnifiedPreTrainingConfig"
CLASSES = (
    Registered("AutoConfig", _ENCODER, "OneVisionConfig"),
    Registered("AutoModel", _ENCODER, "OneVisionModel"),
    Registered("AutoModelForVideoClassification", _ENCODER, "OneVisionForVideoClassification"),
    Registered("AutoModelForImageClassification", _ENCODER, "OneVisionForImageClassification"),
    Registered("AutoImageProcessor", _ENCODER, "OneVisionImageProcessor"),
    Registered("AutoVideoProcessor", _ENCODER, "OneVisionVideoProcessor"),
    Registered("AutoConfig", _OPENVISION, "OpenVision3Config"),
    Registered("AutoModel", _OPENVISION, "OpenVision3Model"),
    Registered("AutoImageProcessor", _OPENVISION, "OpenVision3ImageProcessor"),
    Registered("AutoConfig", _VL, "OneVisionVLConfig"),
    Registered("AutoModel", _VL, "OneVisionVLModel"),
    # The last one of a class is the one that its saved folders name beside their code.
    Registered("AutoModelForMultimodalLM", _VL, "OneVisionVLForConditionalGeneration"),
    Registered("AutoModelForImageTextToText", _VL, "OneVisionVLForConditionalGeneration"),
    Registered("AutoProcessor", _VL, "OneVisionVLProcessor"),
    Registered("AutoImageProcessor", _VL, "OneVisionVLImageProcessor"),
    Registered("AutoVideoProcessor", _VL, "OneVisionVLVideoProcessor"),
    *(
        registered
        for name in ("LlavaOnevision2", "LlavaOnevision2Moe", "MageVL")
        for registered in _published(name)
    ),
    Registered("AutoConfig", "MageVLVisionConfig", "MageVLVisionConfig"),
    Registered("AutoModel", "MageVLVisionConfig", "MageVLVisionModel"),
    Registered("AutoConfig", _UNIFIED, "UnifiedPreTrainingConfig"),
    Registered("AutoModel", _UNIFIED, "UnifiedForPreTraining"),
    Registered("AutoModelForPreTraining", _UNIFIED, "UnifiedForPreTraining"),
)
_AUTO_MODULES = {
    f"transformers.models.auto.{kind}_auto"
    for kind in ("configuration", "modeling", "image_processing", "video_processing", "processing")
}


def public(name: str) -> Any:
    """One of the package's public names, imported."""
    return getattr(importlib.import_module(_OURS + PUBLIC[name]), name)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Nothing that is imported is garbage, and to look through all that torch and transformers hold takes
    longer than our imports."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_collection()
def register(auto_module: ModuleType) -> None:
    """Register all that belongs to the Auto classes of one of transformers' modules.

    A class that cannot be imported here (torchvision is missing, say) costs a warning and not the import.
    """
    for auto_name, config_name, name in CLASSES:
        auto: Any = getattr(auto_module, auto_name, None)
        if auto is None or auto.__module__ != auto_module.__name__:
            continue
        try:
            config, cls = public(config_name), public(name)
        except ImportError as error:
            warnings.warn(f"{name} is not registered with {auto_name}: {error}", stacklevel=2)
            continue
        if auto_name == "AutoConfig":
            auto.register(config.model_type, config, exist_ok=True)
        elif auto_name == "AutoImageProcessor":
            auto.register(config, image_processor_classes={"torchvision": cls}, exist_ok=True)
        else:
            auto.register(config, cls, exist_ok=True)


def carry_code(module: ModuleType) -> None:
    """Register the classes of one of our modules as ones whose saved folders carry their code.

    The Hub's exporter follows imports within one folder only: those outside `modeling` cannot be exported.
    """
    for auto, _, name in CLASSES:
        if _OURS + PUBLIC[name] == module.__name__ and PUBLIC[name].startswith("modeling."):
            getattr(module, name).register_for_auto_class(*([auto] if auto.startswith("AutoModel") else []))


class AfterImport:
    """Finds modules as the other finders do, and acts when one that matters here has been executed.

    A class of a module that is half imported is not there yet. So while a module of ours or of transformers
    is on its way in, Auto classes that it imported wait until it is complete.
    """

    def __init__(self) -> None:
        self._thread = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, whose loader acts after it has run; None for modules that are of no
        concern here.

        Args:
            fullname: the module's name.
            path: of its package.
            target: a module that is loaded again.
        """
        if not fullname.startswith((_OURS, "transformers.")):
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                loader: Any = spec.loader
                # Most loaders are made for one module; that of a zip file comes back for the next one.
                if loader is not None and not hasattr(loader.exec_module, "by_onevision_hf"):
                    loader.exec_module = self._then_act(loader.exec_module)
                return spec
        return None

    def _then_act(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def exec_module(module: ModuleType) -> None:
            self._thread.entered = getattr(self._thread, "entered", 0) + 1
            waiting: list[str] = self._thread.__dict__.setdefault("waiting", [])
            try:
                execute(module)
                if module.__name__ in _AUTO_MODULES:
                    waiting.append(module.__name__)
                elif module.__name__.startswith(_OURS):
                    carry_code(module)
            finally:
                self._thread.entered -= 1
                while waiting and not self._thread.entered:
                    auto_module = sys.modules.get(waiting.pop(0))
                    if auto_module is not None:
                        register(auto_module)

        exec_module.by_onevision_hf = True  # type: ignore[attr-defined]
        return exec_module


def install() -> None:
    """Register with those Auto classes that are there, and with the others when they come."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != AfterImport.__name__]
    sys.meta_path.insert(0, AfterImport())
    for name in sorted(_AUTO_MODULES):  # configuration_auto is the first
        auto_module = sys.modules.get(name)
        if auto_module is not None:
            register(auto_module)

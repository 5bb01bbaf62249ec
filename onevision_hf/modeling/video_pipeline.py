"""transformers' `pipeline("video-classification")`: from which version on it can be given the encoder.

Since 5.11 it hands the file to the video processor. Before, it decoded frames by itself and handed them to an
image processor: the model would have classified each as an image, and the answer would have been the first
one's. That is refused, and so is an image processor in this pipeline on any version.
"""

import transformers

TASK = "video-classification"


def no_image_processor() -> ImportError:
    """The error that says so, and which version is needed."""
    return ImportError(
        f'pipeline("{TASK}") with this model needs transformers 5.11 or newer, which hands the video to '
        "OneVisionVideoProcessor; an image processor would have each frame classified as an image, and the "
        f"answer would be the first one's. Found transformers {transformers.__version__}. Without it: "
        "model(**processor(clip, return_tensors='pt')).logits.softmax(-1)"
    )


def refuse_old_pipeline(model_type: str) -> None:
    """Where transformers' pipeline knows no video processor, let it refuse models of `model_type`.

    Its entry in transformers' table of pipelines becomes a subclass that is the same for every other model.
    """
    from transformers.pipelines import PIPELINE_REGISTRY, Pipeline, VideoClassificationPipeline

    if hasattr(Pipeline, "_load_video_processor"):
        return

    class GuardedVideoClassificationPipeline(VideoClassificationPipeline):
        _load_image_processor = None  # a folder without one gets as far as this refusal

        def __init__(self, model, *args, image_processor=None, **kwargs):
            if model.config.model_type == model_type:
                raise no_image_processor()
            if image_processor is None:
                raise OSError(f'pipeline("{TASK}") needs an image processor, none could be loaded')
            super().__init__(model, *args, image_processor=image_processor, **kwargs)

    PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] = GuardedVideoClassificationPipeline

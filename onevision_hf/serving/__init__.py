"""The multimodal models in inference servers; see docs/serving.md."""

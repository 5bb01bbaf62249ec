"""The 16 multimodal benchmarks, lmms-eval style: from requests to answers to a report."""

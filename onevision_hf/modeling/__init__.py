"""Every file that transformers sees: configurations, models, processors, and what the processors need.

Flat on purpose: a checkpoint carries a copy of these files, and the exporter follows only `from .name import
x`.
"""

"""`onevision eval NAME`: one table of evaluations, each in a module of its own.

onevision eval knn CLIPS --model tiny
"""

from .groups import group

COMMANDS = {
    "probe": "an attentive probe over a frozen encoder, as published",
    "knn": "nearest neighbours and a linear classifier on a folder of folders",
    "suite": "the 16 benchmarks of the paper, through lmms-eval",
    "compare": "codec input against whole frames at one budget, paired",
    "prepare": "the benchmarks' data: what, where, how large, is it there",
    "motion": "the motion suite: codec input against whole frames at equal budget",
    "reconstruction": "how well a unified model rebuilds pictures",
    "generation": "generated pictures against a reference set",
    "zeroshot": "name pictures by the nearest text",
    "retrieval": "find the text of a picture, and the picture of a text",
}
app = group("onevision_hf.commands.eval_", COMMANDS)

"""What a `UnifiedForPreTraining` can do, measured: rebuild pictures, name them, find their texts; and its
tokens, written out for those who train generators on them.

`reconstruction`, `generation`, `zeroshot` and `retrieval` are evaluations of `onevision eval`, `tokens` is
`onevision export-tokens`. `models` opens what they measure, `pictures` what they measure it on, `backbones`
the networks that metrics look through, `reference_tables` the published figures.
"""

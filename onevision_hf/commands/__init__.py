"""The sub-commands of `onevision`: a module each, with `configure(parser)` and `run(args) -> int | None`."""

"""One training loop for every task: exact, resumable, on any number of processes.

    accelerate launch -m onevision_hf.training --config cluster_smoke cluster.heads.image.source=shards/image

`config` holds the fields of a run, `mixture`, `sampler` and `loader` say which examples make a step,
`transforms` what becomes of one, `tasks` what is learned, `optimisation` how, `checkpoint` how a run
survives, `loop` the steps themselves, `report` what a person sees, `dry_run` the plan. docs/training.md walks
through it.
"""

try:
    import accelerate  # noqa: F401
    import yaml  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"training needs the extra `train`: pip install '.[train]' in a clone ({error.name} is missing)"
    ) from error

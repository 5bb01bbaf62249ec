"""How many bytes the cluster objective needs on a process, before anything is allocated."""

import math


def cluster_memory(
    num_classes: int,
    embedding_dim: int,
    global_batch: int,
    *,
    processes: int = 1,
    sample_rate: float = 0.1,
    labels_per_sample: int = 8,
    sampling: str = "shared",
    sparse_grad: bool = False,
) -> dict[str, int]:
    """Bytes on the first process, which has the most rows, by part, with float32 centers and AdamW.

    `centers`, `gradient` and `moments` live as long as the training; `sampled` (the normalised copies of the
    sampled centers) and `logits` from the forward to the backward pass. The number of sampled centers is an
    expectation: a random fraction of the classes, and the positives, taken to be all different and spread
    evenly. While a pass runs it needs at most another `sampled`, and an eighth of `logits` for two masks of a
    byte.

    Args:
        num_classes: centers over all processes, C.
        embedding_dim: D.
        global_batch: samples of a step over all processes.
        processes: that share the centers.
        sample_rate: as of `ClusterDiscriminationLoss`.
        labels_per_sample: as of `ClusterDiscriminationLoss`.
        sampling: as of `ClusterDiscriminationLoss`.
        sparse_grad: as of `ClusterDiscriminationLoss`.
    """
    rows = math.ceil(num_classes / processes)
    labels = global_batch * labels_per_sample
    columns, positives = (1, labels) if sampling == "shared" else (labels_per_sample, global_batch)

    def touched(draws: int, positives: int) -> float:
        return rows * (1 - (1 - sample_rate) ** draws * (1 - 1 / num_classes) ** positives)

    sampled = columns * touched(1, positives)
    with_gradient = touched(columns, labels) if sparse_grad else rows
    row = 4 * embedding_dim
    return {
        "centers": rows * row,
        "gradient": round(with_gradient * row),
        # RowSparseAdamW also counts the steps of each row.
        "moments": 2 * rows * row + (4 * rows if sparse_grad else 0),
        "sampled": round(sampled * row),
        "logits": round(4 * global_batch * sampled),
    }

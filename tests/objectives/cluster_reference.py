"""The cluster objective written densely: one process, all classes, autograd, plain loops."""

import math

import torch
from torch.nn import functional as F

from onevision_hf.objectives.cluster_sampling import NEGATIVES, derive_key

MASK = (1 << 64) - 1


def python_hash(item, key):
    """`keyed_hash` of one integer, in Python's unbounded integers."""
    x = (item * 0x9E3779B97F4A7C15 + key) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return (x ^ (x >> 31)) & (2**63 - 1)


def sampled_classes(num_classes, rate, seed, step, column, positives):
    key = derive_key(NEGATIVES, seed, step, column)
    drawn = {c for c in range(num_classes) if python_hash(c, key) / 2**63 < rate}
    return sorted(drawn | positives)


def dense_loss(
    embeddings,
    centers,
    labels,
    *,
    scale,
    margin,
    filter_threshold,
    sample_rate,
    sampling,
    form,
    seed=0,
    step=0,
):
    """(value, what to differentiate); labels (B, labels_per_sample), -100 and repeats allowed."""
    cosine = F.normalize(embeddings) @ F.normalize(centers).T
    negative_logit = cosine
    if filter_threshold:
        negative_logit = torch.where(cosine > filter_threshold, torch.zeros_like(cosine), cosine)
    negative_logit = scale * negative_logit
    rows = [
        [y if y >= 0 and y not in row[:j] else None for j, y in enumerate(row)] for row in labels.tolist()
    ]
    columns = [{row[j] for row in rows} - {None} for j in range(labels.shape[1])]
    shared = sampling == "shared"
    published = form == "softmax" and not shared

    values, objectives = [], []
    for i, row in enumerate(rows):
        terms = []
        for j, label in enumerate(row):
            if label is None:
                continue
            always = set().union(*columns) if shared else columns[j]
            drawn = sampled_classes(len(centers), sample_rate, seed, step, 0 if shared else j, always)
            own = set(row) if shared else {label}
            negatives = negative_logit[i, [c for c in drawn if c not in own]]
            positive = scale * (cosine[i, label] - margin)
            if form == "softmax":
                terms.append(torch.cat([positive[None], negatives]).logsumexp(0) - positive)
            else:
                terms.append(torch.log1p((-positive).exp()) + torch.log1p(negatives.exp()).sum())
        if terms:
            terms = torch.stack(terms)
            values.append(terms.clamp(max=math.log(1e30)).mean() if published else terms.mean())
            objectives.append(terms.sum() if published else terms.mean())
    if not values:
        return cosine.sum() * 0, cosine.sum() * 0
    return torch.stack(values).mean(), torch.stack(objectives).mean()

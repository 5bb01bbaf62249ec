"""What the processes of the contrastive tests run: every form, on one, two and three of them."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from onevision_hf.objectives import contrastive_loss
from onevision_hf.objectives.collectives import mean_over_processes

SIZES = (1, 2, 3)
SPLITS = {1: (11,), 2: (7, 4), 3: (5, 0, 6)}
FORMS, TEXTS, INPUT, DIM = ("softmax", "sigmoid"), (1, 3), 6, 5


class Both(torch.nn.Module):
    """Two linear towers, a scale and a bias."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image, self.text = (torch.nn.Linear(INPUT, DIM, bias=False).double() for _ in range(2))
        for module in (self.image, self.text):
            module.weight.data.copy_(torch.randn(DIM, INPUT, generator=generator, dtype=torch.float64))
        self.scale = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.tensor([-1.0], dtype=torch.float64))

    def forward(self, images, texts):
        # Through the wrapper, which waits for the gradients of what is used here.
        return self.image(images), self.text(texts), self.scale * 1, self.bias * 1


def batch(texts):
    generator = torch.Generator().manual_seed(texts)
    images = torch.randn(11, INPUT, generator=generator, dtype=torch.float64)
    captions = torch.randn(11, texts, INPUT, generator=generator, dtype=torch.float64)
    return images, captions


def run(form, texts, size, rank, group):
    images, captions = batch(texts)
    first = sum(SPLITS[size][:rank])
    rows = slice(first, first + SPLITS[size][rank])
    both = Both()
    wrapped = both if size == 1 else DistributedDataParallel(both, process_group=group)
    image, text, scale, bias = wrapped(images[rows], captions[rows])
    found = contrastive_loss(image, text, scale, bias, form=form, process_group=group)
    # The bias is of the sigmoid form alone; the wrapper waits for it all the same.
    (found.loss + 0 * bias.sum()).backward()
    gradients = {name: p.grad for name, p in both.named_parameters()}
    return {"loss": found.loss.detach(), "accuracy": found.accuracy, "gradients": gradients}


def means(size, rank, group):
    """Sums with unequal numbers, one of them of nothing at all."""
    sums = torch.tensor([1.0 + rank, 2.0, 0.0], requires_grad=True)
    counts = torch.tensor([float(rank), 2.0, 0.0])
    found = mean_over_processes(sums, counts, group)
    found.sum().backward()
    return {"means": found.detach(), "gradient": sums.grad}


def main():
    """All forms on groups of the first one, two and three of three processes."""
    results, rank = {}, dist.get_rank()
    for size in SIZES:
        group = dist.new_group(list(range(size)))
        if rank >= size:
            continue
        for form in FORMS:
            for texts in TEXTS:
                results[size, form, texts] = run(form, texts, size, rank, group)
        results[size, "means"] = means(size, rank, group)
    return results

"""A run takes the device that it is given, or what the machine has, and says which device is missing."""

import pytest
import torch

from onevision_hf.jobs.devices import pick_device


def with_accelerators(monkeypatch, kind, count):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: count)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device(kind))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_accelerator_is_taken_unless_another_device_is_named(monkeypatch, kind):
    with_accelerators(monkeypatch, kind, 2)
    assert pick_device() == torch.device(kind)
    assert pick_device(f"{kind}:1") == torch.device(kind, 1)
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match=f"no device '{kind}:2' here: leave it out, or give {kind}"):
        pick_device(f"{kind}:2")


def test_without_an_accelerator_the_cpu_is_taken_and_none_can_be_named(monkeypatch):
    with_accelerators(monkeypatch, "cuda", 0)  # a build for CUDA on a machine without a GPU
    assert pick_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="torch finds no device 'cuda' here: leave it out, or give cpu"):
        pick_device("cuda")
    with pytest.raises(ValueError, match="no device is called 'gpu': leave it out, or give cpu"):
        pick_device("gpu")

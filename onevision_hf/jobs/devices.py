"""Which device a run computes on: the one that is named, else what torch finds here, else the CPU."""

import torch


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """`name`, or the accelerator of this machine (cuda, mps, xpu, ...), or the CPU where there is none.

    Raises:
        ValueError: a device that is not here, or that torch does not know.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"no device is called {name!r}: leave it out, or give {found or 'cpu'}") from error
    count = torch.accelerator.device_count() if found is not None and found.type == device.type else 0
    if device.type not in ("cpu", "meta") and (device.index or 0) >= count:
        raise ValueError(
            f"torch finds no device {str(device)!r} here: leave it out, or give {found or 'cpu'}"
        )
    return device

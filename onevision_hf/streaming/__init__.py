"""Live sources: packets as they arrive, and windows of patches over them."""

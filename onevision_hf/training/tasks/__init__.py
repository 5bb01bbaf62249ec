"""A training task each: its config, its samples, its losses, its memory plan, its exporter."""

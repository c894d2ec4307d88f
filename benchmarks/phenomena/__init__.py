"""The lecture's experiments: one file each, pure functions above, `analyze` below, a card in README.md."""

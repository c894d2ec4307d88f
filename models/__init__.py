"""Networks: image -> logits. Each file holds one architecture and everything it needs."""

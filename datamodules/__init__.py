"""Datasets: files -> batches of uint8 images and labels, normalised on the device."""

"""Batches -> logits: the networks and their weight files."""

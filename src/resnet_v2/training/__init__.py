"""Logits -> weights: schedule, checkpoints, the loop, exact evaluation."""

"""Bytes on disk -> uint8 batches. numpy only, never torch."""

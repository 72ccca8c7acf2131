"""Activation plans: what they cost, which one fits a budget, and how a network follows it."""

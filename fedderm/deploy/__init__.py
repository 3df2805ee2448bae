"""A real federation: the coordinator's authority and register, a hospital's key, and their two processes."""

from fedderm import runtime

__all__ = ["runtime"]  # imported before Flower, whose messages to the outside it switches off

"""Federated learning across clinical sites for dermoscopic skin-cancer images."""

__version__ = "0.1.0"

"""What is measured, and against what (README.md).

A package of its own, not a namespace: opacus installs a ``benchmarks``, too, which would be found instead.
"""

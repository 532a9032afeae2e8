"""Kronecker products beside those of other libraries: ``python -m kronops bench``.

The scripts of ``benchmarks/`` measure by the same modules. Nothing in kronops imports this.
"""

"""Converters, one thin file for each raw data set: raw layout in, samples out.

Each module has a ``CONVERTER`` and runs by itself: ``python -m verl_mars.data_prep.llvip --root ... --out ...``.
"""

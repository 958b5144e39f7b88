"""The suites of tools/benchmark.py: each a function of (device, repeat) that gives rows, one file
for each.
"""

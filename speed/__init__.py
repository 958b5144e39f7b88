"""Speed tests: each suite measures our way against the obvious one of reference/, a file each.

Run them with ``python -m speed SUITE…``; results/ holds what was measured.
"""

"""Instruments that look into results and models: what a number does not say."""

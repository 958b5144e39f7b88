"""Stages between scores and labels."""

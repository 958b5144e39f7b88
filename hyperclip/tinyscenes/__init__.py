"""The embedded world of the quickstart: drawn scenes and their captions."""

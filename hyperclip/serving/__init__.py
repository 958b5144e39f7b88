"""Answers for other programs over HTTP: a server, and a client for it; docs/serving.md."""

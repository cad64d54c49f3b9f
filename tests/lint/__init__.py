"""Checks of the repository's text that no linter brings: run by `make lint`."""

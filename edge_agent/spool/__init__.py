"""Frames that the next training can use, kept on disk while the line runs. docs/retraining.md."""

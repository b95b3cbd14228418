"""Does the line still look like it did? An alarm before the rejects say so. docs/retraining.md."""

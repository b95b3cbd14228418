"""What a user asks of `python -m train`, by subject. Heavy imports stay inside the functions: --help is at once."""

"""Layers and exact rewrites that two systems share, and nothing else."""

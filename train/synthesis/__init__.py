"""Synthesis jobs: defects of the kinds and in the places that a user names, written as a set that Faultline reads."""

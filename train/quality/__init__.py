"""How near generated images come to real ones, and how different they are from each other."""

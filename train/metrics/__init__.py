"""What a detector's scores are worth: plain float64 NumPy, exact, and fast enough for every pixel of a test set."""

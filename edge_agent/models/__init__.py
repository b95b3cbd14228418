"""Which bundle judges: in service now, changed between two parts, remembered over a power cut."""

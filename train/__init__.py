"""Faultline's training side: detectors, metrics, reports. Runs on the server under JAX."""

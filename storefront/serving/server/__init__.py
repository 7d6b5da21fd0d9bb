"""Uvicorn's protocols and processes, with timeouts, backpressure, load shedding and graceful shutdown."""

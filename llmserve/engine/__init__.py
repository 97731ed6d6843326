"""Requests in, token events out: the engine's boundary, its implementations and the processes around them."""

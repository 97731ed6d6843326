"""The parts of bench_front.py: a front with a sampler in its loop, an engine that computes nothing, and clients."""

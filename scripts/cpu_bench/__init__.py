"""The parts of `scripts/bench_cpu.py`: preparing engines and peers, measuring them in turns, reporting."""

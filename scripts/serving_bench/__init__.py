"""What the benchmarks of a running server share: starting one, watching it, and tables and figures of what was seen."""

"""What an engine will need and what a machine has, without either: bytes, tokens, and the speed that memory allows.

Weights are counted by asking the very model that would run what parameters it has. Nothing here reads a weight, and no
GPU is asked anything. Knows nothing of how a plan is printed beyond `report`.
"""

"""One rank's computation: a plan becomes tensors, tensors become logits, logits become tokens (rank 0).

It knows no requests' lives, no queues and no text.
"""

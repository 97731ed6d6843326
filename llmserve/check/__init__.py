"""`llmserve build --check`: does an engine that was just built say what its checkpoint says?

It knows checkpoints, models and runners; requests, scheduling and HTTP are elsewhere.
"""

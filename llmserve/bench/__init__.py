"""`llmserve bench`: how fast an engine in this process is, and how fast a running server answers."""

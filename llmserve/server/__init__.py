"""The front: HTTP and text on one side, token ids over ZeroMQ on the other. It never imports torch."""

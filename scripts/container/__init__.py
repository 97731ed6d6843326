"""Carrying out a Dockerfile without a Docker engine: its steps in folders, in namespaces of their own. Needs root."""

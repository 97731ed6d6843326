"""What an answer's text says: reasoning, content and tool calls, told apart as the text comes.

A model writes all of it into one text, each family in a form of its own: `tools` and `reasoning` have a file for each.
What they make of the text are `parts`; HTTP, OpenAI's JSON and tokens are unknown here.
"""

"""What clients send, checked: a module for each body, and for each part of one that has rules of its own.

A parameter is one of four things: used; known to be without effect here and accepted; known, unsupported and
accepted only at the value that asks for nothing; or refused. Nothing is ignored that a client might have meant.
Out of here come plain values; what they mean for the model that is served, `serving` knows.
"""

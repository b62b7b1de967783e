"""Rolls out the views that a prompt needs, in one request, on verl's own agent loop."""

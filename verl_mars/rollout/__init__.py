"""Rolls out the views of each prompt in one request, on verl's own agent loop and replay buffer."""

"""A synthetic multi-source world and a tiny vision-language model that learns in it within minutes on a CPU."""

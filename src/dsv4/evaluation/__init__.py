"""How fast a model runs, how fast this machine lets it run, and how far its numerics differ."""

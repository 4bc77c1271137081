"""Training: packed faces, pairs made online, losses, optimisers, the loop and its configuration."""

"""Is it the same person: detection, alignment, embedding, scoring and statistics."""

from .embedders import create_embedder, embedders, list_embedders

__all__ = ["create_embedder", "embedders", "list_embedders"]

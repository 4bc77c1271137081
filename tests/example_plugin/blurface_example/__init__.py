"""Extensions of blurface by another package."""

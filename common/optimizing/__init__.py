"""Makes a faster graph of a model folder, and measures how far its vectors agree."""

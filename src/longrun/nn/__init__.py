"""Layers that three or more methods share."""

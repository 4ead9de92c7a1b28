"""Longrun: which neural PDE solver keeps its promise over long rollouts."""

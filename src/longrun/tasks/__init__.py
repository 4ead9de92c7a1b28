"""What a method is asked to do: one task per file."""

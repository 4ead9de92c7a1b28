"""What is solved: one equation per file."""

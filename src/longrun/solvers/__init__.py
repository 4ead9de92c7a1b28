"""How it is solved: numerical methods shared by the equations."""

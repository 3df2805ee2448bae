"""How the server aggregates: one method a file, behind one guard and one round."""

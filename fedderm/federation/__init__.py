"""The server's side of a run: roll call, rounds, and the evaluation that concludes it."""

"""Long proofs that a run can be trusted: kills, bad input, many processes, large data, hostile input."""

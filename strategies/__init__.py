"""How updates merge: one file a strategy."""

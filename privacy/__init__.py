"""Private training, accounting and the ledger."""

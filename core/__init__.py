"""What both sides share: configuration, task, models, wire format, signing."""

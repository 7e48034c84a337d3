"""Both sides on one machine: demo, simulation, reference experiment."""

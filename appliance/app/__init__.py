"""The composition root: the only place that wires the parts together, owns resources and hears signals."""

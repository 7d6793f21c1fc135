"""Energy-based associative memories in JAX: write the energy, get the memory."""

__version__ = "0.1.0"

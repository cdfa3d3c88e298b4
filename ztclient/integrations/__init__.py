"""The overlay for other libraries, by their public ways alone. Each module imports its library when it is used."""

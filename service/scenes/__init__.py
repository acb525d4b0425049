"""From a catalogue of satellite scenes to d-pixels."""

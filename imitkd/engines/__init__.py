"""What a student runs on: our own decoder, or the engine that an export was made for."""

"""Square: its Connect v2 API as a platform."""

"""What a person types: one file a topic, each command thin; what it does lives in the rooms below."""

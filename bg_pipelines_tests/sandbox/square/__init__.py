"""Square's side of the sandbox."""

"""One machine: its processes are started, watched and stopped together; and the demo."""

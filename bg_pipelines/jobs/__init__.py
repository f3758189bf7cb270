"""The jobs: one file each, with its config, op, schedule or sensor."""

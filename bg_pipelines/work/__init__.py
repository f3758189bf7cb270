"""Claimed work, whoever's: the queue, the runner and what is kept of attempts and runs."""

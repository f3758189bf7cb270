"""Tests of the sandbox's shops."""

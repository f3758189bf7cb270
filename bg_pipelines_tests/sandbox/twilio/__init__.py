"""Tests of the sandbox's Twilio account."""

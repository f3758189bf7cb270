"""Twilio's Messages API, for one account."""

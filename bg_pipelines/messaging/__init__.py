"""Text messages to people, through Twilio.

Clients are plain Python, honour a base URL and the usual proxy variables, and raise classified IntegrationErrors that
quote no number, address, text or token. Callers decide what is sent when.
"""

"""What leaves the house for people: text messages (Twilio), notifications (any apprise URL), whom alerts go to.

Clients here are plain Python, honour a base URL and the usual proxy variables, and raise IntegrationError, classified,
in which no number, address, text or token is quoted. What is sent when is decided elsewhere.
"""

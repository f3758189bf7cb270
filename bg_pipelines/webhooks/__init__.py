"""Webhooks: deliveries are stored when they come, and handled by a run; subscriptions are kept as declared."""

"""Square's Connect v2 API for many merchants: who they are, what they hold, and how they answer."""

"""What the faults and their replicas share."""

from typing import Any

LEASE = 10.0  # real seconds that a claim lasts, where a case does not wait for the whole minute of a lease
CRON_SECRET = "cron-secret-of-the-faults"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRETS: dict[str, Any] = {"cron_secret": CRON_SECRET, "standard_webhooks_secret": WHSEC}

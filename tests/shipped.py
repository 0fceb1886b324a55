"""What ships in the folders that are yours. A test of one of these files stands in tests/, in a folder of that name."""

ROUTES = [
    "routes/api/chat/route.py",
    "routes/api/chat/[id]/stream/route.py",
    "routes/api/chat/ui/route.py",
    "routes/api/chat/ui/[id]/stream/route.py",
    "routes/api/conversations/route.py",
    "routes/api/conversations/[id]/route.py",
    "routes/api/cron/route.py",
    "routes/api/health/route.py",
    "routes/api/jobs/route.py",
    "routes/api/metrics/route.py",
    "routes/api/openapi.json/route.py",
    "routes/api/webhooks/[channel]/route.py",
]
CHANNELS = ["github", "slack", "standard", "stripe", "telegram", "whatsapp"]

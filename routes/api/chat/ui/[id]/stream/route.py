"""GET /api/chat/ui/[id]/stream: what `useChat({ resume: true })` asks for when its page is loaded. Always 204.

204 says that there is no stream to resume (https://ai-sdk.dev/docs/ai-sdk-ui/chatbot-resume-streams): an answer ends
with the request that it belongs to, and what was said until then is in the conversation.
"""

from starlette.requests import Request
from starlette.responses import Response

from auth import requires, service, visitor
from state import State


@requires(service, visitor)
async def GET(request: Request[State]) -> Response:
    return Response(status_code=204)

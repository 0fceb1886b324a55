"""channels/telegram.py and CHAT_QUOTA."""

from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app import create_app
from chat import OVER
from config import Config, Limit
from llm import LLM
from tests.conftest import SECRET
from tests.servers import ModelServer, serving, wait_until


def test_a_person_over_the_quota_is_told_once_and_no_job_fails(tmp_path: Path, model: ModelServer):
    sent: list[str] = []

    async def take(request: Request) -> JSONResponse:
        sent.append((await request.json())["text"])
        return JSONResponse({"ok": True})

    api = Starlette(routes=[Route("/{rest:path}", take, methods=["POST"])])
    with serving(api, lifespan="off") as sender:
        config = Config(
            database_url=f"sqlite:///{tmp_path}/app.db",
            openai_base_url=model.url,
            cron_secret=SECRET,
            telegram_webhook_secret=SECRET,
            telegram_bot_token="7:AA",
            telegram_api_url=sender,
            chat_quota=(Limit(3, 60),),
        )
        with serving(create_app(config, llm=LLM(config))) as url:
            for n in range(7):
                update = {"update_id": n, "message": {"chat": {"id": 42}, "text": f"question {n}"}}
                headers = {"X-Telegram-Bot-Api-Secret-Token": SECRET}
                answer = httpx.post(f"{url}/api/webhooks/telegram", json=update, headers=headers, trust_env=False)
                assert answer.status_code == 200

            def jobs() -> Any:
                return httpx.get(f"{url}/api/jobs", headers={"X-Cron-Secret": SECRET}, trust_env=False).json()["data"]

            wait_until(lambda: not jobs()["due"] and not jobs()["running"], 30)
            assert jobs()["failed"] == []
    assert sent == ["Hello"] * 3 + [OVER]
    assert len(model.asked) == 3

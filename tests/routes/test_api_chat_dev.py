"""What make dev prints for the chat that ships: a link to the page, and a line to paste."""

import re
import shlex
import shutil

import httpx

from tests.processes import Project, run, running
from tests.servers import free_port


def test_make_dev_prints_a_curl_line_that_streams_the_offline_model(clone: Project):
    port = free_port()
    with running(clone, "make", "dev", PORT=str(port)) as dev:
        dev.wait_for("curl -N")
        assert re.search(r"POST +/api/chat +routes/api/chat/route\.py", dev.output)
        assert f"http://localhost:{port}" in dev.output
        assert "the offline one" in dev.output
        line = next(line for line in dev.output.splitlines() if "curl -N" in line)
        words = shlex.split(line)
        url = next(word for word in words if word.startswith("http"))
        headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
        with httpx.stream(
            "POST", url, headers=headers, content=words[words.index("-d") + 1], trust_env=False
        ) as response:
            lines = [line for line in response.iter_lines() if line]
        assert response.status_code == 200
        assert len(lines) > 10
        assert lines[-1] == "data: [DONE]"
        assert '"offline "' in "".join(lines)
        assert httpx.post(url, json={"message": "Hi"}, trust_env=False).status_code == 401
        link = f"http://localhost:{port}/#token={headers['Authorization'].removeprefix('Bearer ')}"
        assert link in dev.output
        assert "<title>Chat</title>" in httpx.get(link, trust_env=False).text
        if shutil.which("curl"):
            pasted = run(clone, "sh", "-c", line)
            assert pasted.stdout.endswith("data: [DONE]\n\n")

"""The same zero-latency server as a Ray Serve application behind Serve's own HAProxy; prints where it listens.

The environment that selects HAProxy and its ports is set by whoever starts this.
"""

import json
import logging
import signal
import sys
from pathlib import Path

import ray
from fastapi import FastAPI, Request
from ray import serve
from starlette.responses import JSONResponse, Response, StreamingResponse

sys.path.insert(0, str(Path(__file__).parent))
from backend import TOKENS, completion, events

web = FastAPI()


@serve.deployment(num_replicas=1, max_ongoing_requests=200, ray_actor_options={"num_cpus": 0})
@serve.ingress(web)
class App:
    @web.post("/v1/chat/completions")
    async def answer(self, request: Request) -> Response:
        asked = await request.json()
        words = asked["messages"][-1]["content"].split()[:TOKENS]
        if asked.get("stream"):
            return StreamingResponse(events(words), media_type="text/event-stream")
        return JSONResponse(completion(words))


if __name__ == "__main__":
    port, folder = int(sys.argv[1]), sys.argv[2]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=folder,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"working_dir": None, "env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(App.bind(), logging_config={"enable_access_log": False})
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
